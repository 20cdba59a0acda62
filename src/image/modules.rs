//! Kernel modules: found in a directory, with everything they depend on, expanded, in the order they load in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::watch::Watch;
use super::{ImageError, elf, expand::expand};

/// Largest module, expanded.
const LIMIT: u64 = 256 << 20;

/// The modules that go into an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Modules {
    /// Content by name (`_` for `-`).
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// What each needs first, in loading order; the module itself is not among them.
    pub(super) needs: BTreeMap<String, Vec<String>>,
    /// Those that are part of the kernel.
    pub(super) built_in: BTreeSet<String>,
}

impl Modules {
    /// Takes `wanted`, and what they need, from a directory like `/lib/modules/RELEASE`.
    ///
    /// A wanted module that the kernel does not have is passed over; one that a taken module needs is an error.
    pub(super) fn collect(
        directory: &Path,
        release: &str,
        wanted: &[&str],
        watch: &mut Watch,
    ) -> Result<Self, ImageError> {
        let built_in = watch.read_if_there(&directory.join("modules.builtin"))?.unwrap_or_default();
        let built_in = String::from_utf8_lossy(&built_in).lines().filter_map(|line| name_of(Path::new(line))).collect();
        let mut collector =
            Collector { release, paths: find(directory, watch)?, found: Self { built_in, ..Self::default() } };
        for name in wanted {
            super::stop::check()?;
            if collector.paths.contains_key(*name) {
                collector.take(name, &mut Vec::new(), watch)?;
            }
        }
        Ok(collector.found)
    }

    /// For a kernel that the user says has no modules: nothing is known of what it can, so it is not refused.
    pub(super) fn built_in_everything() -> Self {
        let all = super::drivers::wanted().into_iter().map(str::to_owned);
        Self { built_in: all.collect(), ..Self::default() }
    }

    /// Names of all that a guest can use.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.files.keys().chain(&self.built_in).cloned().collect()
    }

    /// What the guest's first process reads: `NAME: NEEDED NEEDED…`, sorted by name.
    pub(super) fn table(&self) -> String {
        self.needs
            .iter()
            .map(|(name, needs)| format!("{name}: {}", needs.join(" ")).trim_end().to_owned() + "\n")
            .collect()
    }
}

struct Collector<'a> {
    release: &'a str,
    paths: BTreeMap<String, PathBuf>,
    found: Modules,
}

impl Collector<'_> {
    /// `above` are the modules that led here: a circle would never end.
    fn take(&mut self, name: &str, above: &mut Vec<String>, watch: &mut Watch) -> Result<(), ImageError> {
        if self.found.files.contains_key(name) || self.found.built_in.contains(name) {
            return Ok(());
        }
        let error =
            |text: String| ImageError::Module { release: self.release.to_owned(), module: name.to_owned(), text };
        if above.iter().any(|outer| outer == name) {
            return Err(error(format!("it needs itself: {}", above.join(" → "))));
        }
        let Some(path) = self.paths.get(name).cloned() else {
            return Err(error(format!("it is missing, and {} needs it", above.join(" → "))));
        };
        let content = expand(&watch.read(&path)?, LIMIT).map_err(|e| error(e.to_string()))?;
        let info = elf::module_info(&content).map_err(error)?;
        above.push(name.to_owned());
        let mut order: Vec<String> = Vec::new();
        for need in self.direct_needs(&info) {
            self.take(&need, above, watch)?;
            let further = self.found.needs.get(&need).cloned().unwrap_or_default();
            let own = self.found.files.contains_key(&need).then_some(need);
            for module in further.into_iter().chain(own) {
                if !order.contains(&module) {
                    order.push(module);
                }
            }
        }
        above.pop();
        self.found.needs.insert(name.to_owned(), order);
        self.found.files.insert(name.to_owned(), content);
        Ok(())
    }

    /// Hard needs, and soft ones (`softdep=pre: …`) that this kernel has.
    fn direct_needs(&self, info: &[(String, String)]) -> Vec<String> {
        let values = |wanted: &'static str| info.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value);
        let hard = values("depends").flat_map(|value| value.split(',')).map(plain);
        let soft = values("softdep").filter_map(|value| value.split_once("pre:"));
        let soft =
            soft.flat_map(|(_, rest)| rest.split_whitespace().take_while(|word| !word.ends_with(':'))).map(plain);
        let soft = soft.filter(|name| self.paths.contains_key(name));
        soft.chain(hard).filter(|name| !name.is_empty()).collect()
    }
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/net/virtio-net.ko.xz` → `virtio_net`.
fn name_of(path: &Path) -> Option<String> {
    let (name, ending) = path.file_name()?.to_str()?.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&ending).then(|| plain(name))
}

/// All modules in a directory, by name.
fn find(directory: &Path, watch: &mut Watch) -> Result<BTreeMap<String, PathBuf>, ImageError> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        watch.note(&directory);
        let failed = || ImageError::file("read", &directory);
        for entry in std::fs::read_dir(&directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let path = entry.path();
            // Links are not followed: `build` and `source` point at whole kernel trees.
            if entry.file_type().map_err(failed())?.is_dir() {
                open.push(path);
            } else if let Some(name) = name_of(&path) {
                found.insert(name, path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::{Modules, name_of};
    use crate::image::ImageError;
    use crate::image::watch::Watch;

    /// A relocatable ELF file with nothing but `.modinfo`.
    pub(in crate::image) fn module(info: &str) -> Vec<u8> {
        let text = info.replace(';', "\0") + "\0";
        let names = b"\0.modinfo\0.shstrtab\0";
        let (text_at, names_at) = (64, 64 + text.len());
        let sections_at = names_at + names.len();
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[0x10] = 1; // REL
        elf[0x12] = 62;
        elf[0x14] = 1;
        elf[0x28] = u8::try_from(sections_at).unwrap();
        elf[0x34] = 64;
        elf[0x3a] = 64;
        elf[0x3c] = 3;
        elf[0x3e] = 2;
        elf.extend(text.as_bytes());
        elf.extend(names);
        elf.extend([0; 64]);
        for (name, kind, at, size) in [(1_u8, 1_u8, text_at, text.len()), (10, 3, names_at, names.len())] {
            let mut header = [0; 64];
            header[0] = name;
            header[4] = kind;
            header[0x18] = u8::try_from(at).unwrap();
            header[0x20] = u8::try_from(size).unwrap();
            elf.extend(header);
        }
        elf
    }

    fn collect(files: &[(&str, &str)], built_in: &str, wanted: &[&str]) -> Result<Modules, ImageError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("modules.builtin"), built_in).unwrap();
        std::fs::create_dir(directory.path().join("kernel")).unwrap();
        for (name, info) in files {
            let content =
                if name.ends_with(".zst") { zstd::encode_all(&module(info)[..], 1).unwrap() } else { module(info) };
            std::fs::write(directory.path().join("kernel").join(name), content).unwrap();
        }
        Modules::collect(directory.path(), "6.1.0", wanted, &mut Watch::default())
    }

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let files = [
            ("net-failover.ko", "depends=failover"),
            ("failover.ko", "depends="),
            ("virtio_net.ko.zst", "license=GPL;softdep=pre: crc post: nothing;depends=net_failover,failover,built-in"),
            ("crc.ko", "depends="),
            ("other.ko", "depends=lost"),
        ];
        let found = collect(&files, "kernel/built-in.ko\n", &["virtio_net", "e1000"]).unwrap();
        assert_eq!(found.table(), "crc:\nfailover:\nnet_failover: failover\nvirtio_net: crc failover net_failover\n");
        assert_eq!(
            found.names().into_iter().collect::<Vec<_>>(),
            ["built_in", "crc", "failover", "net_failover", "virtio_net"]
        );
        assert!(found.files.values().all(|content| content.starts_with(b"\x7fELF")));
    }

    #[test]
    fn a_missing_or_circular_need_is_an_error_that_says_the_way() {
        let check = |files: &[(&str, &str)], expected: &str| {
            let said = collect(files, "", &["a"]).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        };
        check(&[("a.ko", "depends=b"), ("b.ko", "depends=lost")], "module lost: it is missing, and a → b needs it");
        check(&[("a.ko", "depends=b"), ("b.ko", "depends=a")], "module a: it needs itself: a → b");
    }

    #[test]
    fn names_are_those_that_the_kernel_uses() {
        let check = |path: &str, expected: Option<&str>| assert_eq!(name_of(Path::new(path)).as_deref(), expected);
        check("kernel/net/net-failover.ko", Some("net_failover"));
        check("virtio_net.ko.xz", Some("virtio_net"));
        check("modules.order", None);
        check("a.ko.bak", None);
    }
}
