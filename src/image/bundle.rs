//! vptest with everything it needs to start, as one archive: for nodes that have neither it nor its libraries.
//!
//! The dynamic loader and the libraries go along, so that the node's own C library, whose version may be another, has no
//! say. They are started by a script, since a program names its loader by an absolute path.

use std::path::Path;

use super::libraries::Libraries;
use super::watch::Watch;
use super::{ImageError, elf};

/// What the node is to start: a path in the archive.
pub const BUNDLE_PROGRAM: &str = "vptest";
/// The program itself in the archive, when [`BUNDLE_PROGRAM`] is the script that starts it.
pub const BUNDLE_BINARY: &str = "vptest.bin";
/// Directory of the libraries in the archive.
const LIBRARIES: &str = "lib";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// A POSIX tar archive; the same for the same program and libraries.
    pub tar: Vec<u8>,
}

impl Bundle {
    /// Packs this vptest, without its symbols, and the libraries that this host starts it with.
    ///
    /// # Errors
    /// A file cannot be read, a library is missing, or the program is none for x86-64.
    pub fn of(vptest: &Path) -> Result<Self, ImageError> {
        let mut watch = Watch::default();
        let content = elf::trimmed(&watch.read(vptest)?);
        let refused = |text| ImageError::Program { path: vptest.to_owned(), text };
        let loader = elf::needs(&content).map_err(refused)?.interpreter;
        let mut archive = Archive(tar::Builder::new(Vec::new()));
        let Some(loader) = loader else {
            archive.add(BUNDLE_PROGRAM, &content, vptest)?;
            return archive.finish(vptest);
        };
        let mut libraries = Libraries::new(&mut watch)?;
        libraries.add(vptest, &content, &mut watch)?;
        // glibc opens it by itself, for ending threads.
        libraries.add_if_there("libgcc_s.so.1", &mut watch)?;
        archive.add(BUNDLE_PROGRAM, script(file_name(&loader)).as_bytes(), vptest)?;
        archive.add(BUNDLE_BINARY, &content, vptest)?;
        for (in_guest, path) in &libraries.files {
            let library = watch.read(path)?;
            archive.add(&format!("{LIBRARIES}/{}", file_name(in_guest)), &library, path)?;
        }
        archive.finish(vptest)
    }
}

/// Starts the program by its own loader, wherever the archive was unpacked.
fn script(loader: &str) -> String {
    format!(
        "#!/bin/sh\nhere=${{0%/*}}\n\
         exec \"$here/{LIBRARIES}/{loader}\" --library-path \"$here/{LIBRARIES}\" \"$here/{BUNDLE_BINARY}\" \"$@\"\n"
    )
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn add(&mut self, name: &str, content: &[u8], source: &Path) -> Result<(), ImageError> {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(0);
        self.0.append_data(&mut header, name, content).map_err(ImageError::file("pack", source))
    }

    fn finish(self, source: &Path) -> Result<Bundle, ImageError> {
        Ok(Bundle { tar: self.0.into_inner().map_err(ImageError::file("pack", source))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_runs_with_nothing_but_itself() {
        let own = std::env::current_exe().unwrap();
        let bundle = Bundle::of(&own).unwrap();
        assert_eq!(bundle, Bundle::of(&own).unwrap());
        let directory = tempfile::tempdir().unwrap();
        tar::Archive::new(&bundle.tar[..]).unpack(directory.path()).unwrap();
        let loaded = std::process::Command::new(directory.path().join(BUNDLE_PROGRAM))
            .args(["--list", "image::bundle"])
            .env("LD_DEBUG", "files")
            .output()
            .unwrap();
        let listed = String::from_utf8_lossy(&loaded.stdout);
        assert!(listed.contains("what_was_packed_runs_with_nothing_but_itself"), "{loaded:?}");
        // ld.so(8): with `LD_DEBUG=files` the loader says what it starts.
        let said = String::from_utf8_lossy(&loaded.stderr);
        let started: Vec<&str> = said.lines().filter_map(|line| line.split("calling init: ").nth(1)).collect();
        let inside = directory.path().to_str().unwrap();
        // The shell of the script comes first, with libraries of this host.
        let own: Vec<&&str> = started.iter().skip_while(|path| !path.starts_with(inside)).collect();
        assert!(!own.is_empty() && own.iter().all(|path| path.starts_with(inside)), "{started:?}");
    }
}
