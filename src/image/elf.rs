//! What is read out of ELF files: notes, needed libraries, module descriptions; and what is cut off them.

use goblin::elf::Elf;
use goblin::elf::header::ET_DYN;
use goblin::elf::program_header::PT_LOAD;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: where a kernel is entered without firmware, in 32-bit mode (PVH).
///
/// Source: Xen, `xen/include/public/elfnote.h`.
const PHYS32_ENTRY: u32 = 18;

pub(super) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

/// Has this kernel a PVH entry?
pub(super) fn has_pvh_entry(data: &[u8]) -> bool {
    let Ok(elf) = Elf::parse(data) else { return false };
    let Some(mut notes) = elf.iter_note_headers(data) else { return false };
    notes.any(|note| note.is_ok_and(|note| note.name.trim_end_matches('\0') == "Xen" && note.n_type == PHYS32_ENTRY))
}

/// What a program or library needs to be started.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The dynamic loader; `None` for libraries and static programs.
    pub(super) interpreter: Option<String>,
    /// Names of libraries.
    pub(super) libraries: Vec<String>,
    /// `DT_RPATH`, split at colons: searched for its own libraries and for those of the libraries it loads.
    pub(super) rpath: Vec<String>,
    /// `DT_RUNPATH`: searched for its own libraries.
    pub(super) runpath: Vec<String>,
}

/// Reads the dynamic section of a 64-bit x86 program.
///
/// # Errors
///
/// Says what is wrong: not ELF, of another architecture, damaged.
pub(super) fn needs(data: &[u8]) -> Result<Needs, String> {
    let elf = Elf::parse(data).map_err(|error| error.to_string())?;
    if !elf.is_64 || elf.header.e_machine != goblin::elf::header::EM_X86_64 {
        let machine = goblin::elf::header::machine_to_str(elf.header.e_machine);
        return Err(format!("it is for {machine}, {} bits; guests are x86-64", if elf.is_64 { 64 } else { 32 }));
    }
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let split = |texts: &[&str]| {
        texts.iter().flat_map(|text| text.split(':')).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    Ok(Needs {
        interpreter: elf.interpreter.map(str::to_owned),
        libraries: owned(&elf.libraries),
        rpath: if elf.runpaths.is_empty() { split(&elf.rpaths) } else { Vec::new() },
        runpath: split(&elf.runpaths),
    })
}

/// The program without what is never loaded: symbols, debugging information, section headers.
///
/// What follows the last loadable segment goes; a file that is not a whole 64-bit ELF program is given back unchanged.
pub fn trimmed(data: &[u8]) -> Vec<u8> {
    let end = Elf::parse(data).ok().filter(|elf| elf.is_64 && elf.little_endian).and_then(|elf| {
        let loaded = elf.program_headers.iter().filter(|header| header.p_type == PT_LOAD);
        let end = loaded.map(|header| header.p_offset.saturating_add(header.p_filesz)).max()?;
        usize::try_from(end).ok().filter(|&end| end <= data.len() && end >= 64)
    });
    let Some(end) = end else { return data.to_vec() };
    let mut out = data[..end].to_vec();
    // e_shoff; then e_shentsize, e_shnum and e_shstrndx: there is no section header table any more.
    out[0x28..0x30].fill(0);
    out[0x3a..0x40].fill(0);
    out
}

/// The lines `name=value` that describe a kernel module.
///
/// # Errors
///
/// Says what is wrong: not ELF, no such section.
pub(super) fn module_info(data: &[u8]) -> Result<Vec<(String, String)>, String> {
    let elf = Elf::parse(data).map_err(|error| error.to_string())?;
    if elf.header.e_type == ET_DYN || !elf.is_64 {
        return Err("it is no 64-bit kernel module".to_owned());
    }
    let section = elf.section_headers.iter().find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(".modinfo"));
    let range = section.and_then(goblin::elf::SectionHeader::file_range).ok_or("it has no section .modinfo")?;
    let text = data.get(range).ok_or("its section .modinfo lies outside of the file")?;
    let lines = text.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    Ok(lines.filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect())
}

#[cfg(test)]
mod tests {
    use super::{has_pvh_entry, is_elf, module_info, needs, trimmed};

    fn own() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn a_trimmed_program_still_runs() {
        use std::os::unix::fs::PermissionsExt as _;
        let whole = own();
        let cut = trimmed(&whole);
        assert!(cut.len() < whole.len() / 2, "{} of {} bytes", cut.len(), whole.len());
        assert_eq!(needs(&cut).unwrap(), needs(&whole).unwrap());
        assert_eq!(trimmed(&cut), cut);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cut");
        std::fs::write(&path, cut).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let listed = std::process::Command::new(path).args(["--list", "image::elf"]).output().unwrap();
        assert!(String::from_utf8(listed.stdout).unwrap().contains("a_trimmed_program_still_runs"));
    }

    #[test]
    fn what_is_no_program_stays_as_it_is() {
        for data in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &own()[..100]] {
            assert_eq!(trimmed(data), data);
        }
    }

    #[test]
    fn the_needs_of_this_program() {
        let needs = needs(&own()).unwrap();
        assert!(needs.libraries.iter().any(|library| library.starts_with("libc.so")), "{needs:?}");
        assert!(needs.interpreter.unwrap().contains("ld"));
    }

    #[test]
    fn what_is_no_kernel_or_module_is_told_apart() {
        assert!(is_elf(&own()));
        assert!(!has_pvh_entry(&own()));
        assert!(!has_pvh_entry(b"MZ"));
        assert!(module_info(&own()).is_err());
        assert!(module_info(b"no module").is_err());
        assert!(needs(b"no program").is_err());
    }
}
