//! Loading kernel modules in a guest whose image vptest made.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use nix::kmod::{ModuleInitFlags, finit_module};

/// `NAME: NEEDED NEEDED…` for every module in the image, those needed in loading order.
const TABLE: &str = "/etc/vptest/modules.dep";

/// Names of what every guest loads, one in a line.
const AT_BOOT: &str = "/etc/vptest/modules";

/// Why a module is not loaded.
#[derive(Debug, thiserror::Error)]
#[error("kernel module {module} cannot be loaded: {source}")]
pub struct ModuleError {
    /// Its name.
    pub module: String,
    source: io::Error,
}

/// The modules of the image, and the arguments that the kernel was started with for them.
#[derive(Debug, Default)]
pub struct Modules {
    directory: PathBuf,
    needs: BTreeMap<String, Vec<String>>,
    arguments: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads the image's table.
    ///
    /// # Errors
    ///
    /// It is not there: this is no guest with an image of vptest's.
    pub fn open() -> io::Result<Self> {
        let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        Ok(Self { directory: ["/lib/modules", &release].iter().collect(), ..Self::parse(&fs::read_to_string(TABLE)?) })
    }

    fn parse(table: &str) -> Self {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let lines = table.lines().filter_map(|line| line.split_once(':'));
        Self { needs: lines.map(|(name, needs)| (name.to_owned(), words(needs))).collect(), ..Self::default() }
    }

    /// Takes `MODULE.PARAMETER=VALUE` from a kernel command line: a kernel hands these on only to what is built in.
    #[must_use]
    pub fn with_arguments(mut self, line: &str) -> Self {
        for word in line.split_whitespace().take_while(|word| *word != "--") {
            let Some((module, argument)) = word.split_once('.').filter(|(_, rest)| rest.contains('=')) else {
                continue;
            };
            let module = module.replace('-', "_");
            if self.needs.contains_key(&module) {
                self.arguments.entry(module).or_default().push(argument.to_owned());
            }
        }
        self
    }

    /// Names of what every guest loads, as far as the image has it.
    pub fn at_boot(&self) -> Vec<String> {
        let names = fs::read_to_string(AT_BOOT).unwrap_or_default();
        names.lines().filter(|name| self.needs.contains_key(*name)).map(str::to_owned).collect()
    }

    /// Loads a module and what it needs; what is loaded already, or not a module of this image but built in, stays.
    ///
    /// # Errors
    ///
    /// Names the module that the kernel refuses or the image does not have.
    pub fn load(&self, name: &str) -> Result<(), ModuleError> {
        let name = name.replace('-', "_");
        let Some(needs) = self.needs.get(&name) else {
            let known = fs::exists(format!("/sys/module/{name}")).unwrap_or(false);
            let source = io::Error::new(io::ErrorKind::NotFound, "this image has no such module");
            return if known { Ok(()) } else { Err(ModuleError { module: name, source }) };
        };
        for module in needs.iter().chain([&name]) {
            self.insert(module).map_err(|source| ModuleError { module: module.clone(), source })?;
        }
        Ok(())
    }

    fn insert(&self, name: &str) -> io::Result<()> {
        if fs::exists(format!("/sys/module/{name}"))? {
            return Ok(());
        }
        let file = File::open(self.directory.join(format!("{name}.ko")))?;
        let arguments = self.arguments.get(name).map(|all| all.join(" ")).unwrap_or_default();
        match finit_module(&file, &CString::new(arguments)?, ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Modules;

    #[test]
    fn arguments_on_the_kernel_line_reach_their_module() {
        let modules = Modules::parse("virtio_mmio: virtio_ring\nvirtio_ring:\n");
        assert_eq!(modules.needs["virtio_mmio"], ["virtio_ring"]);
        let line = "quiet virtio_mmio.device=512@0xfeb00e00:12 virtio-mmio.device=512@0xfeb00c00:11 vptest.node=a \
                    tcp.x=1 -- virtio_ring.no=1";
        let modules = modules.with_arguments(line);
        assert_eq!(modules.arguments.len(), 1);
        assert_eq!(modules.arguments["virtio_mmio"], ["device=512@0xfeb00e00:12", "device=512@0xfeb00c00:11"]);
    }

    #[test]
    fn a_module_that_the_image_lacks_is_named() {
        let said = Modules::parse("").load("no-such-module").unwrap_err();
        assert_eq!(said.module, "no_such_module");
    }
}
