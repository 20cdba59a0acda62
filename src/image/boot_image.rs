//! Kernel images: the uncompressed kernel inside a bzImage, and its release.
//!
//! QEMU enters an uncompressed kernel with a PVH note directly. Under TCG that saves the seconds that the kernel would
//! take to unpack itself.

use memchr::memmem;

use super::{elf, expand::expand};

/// Largest kernel, expanded.
const LIMIT: u64 = 1 << 30;

/// A kernel as QEMU takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BootImage {
    pub(super) bytes: Vec<u8>,
    /// Uncompressed, with a PVH note.
    pub(super) pvh: bool,
    /// As `uname -r` prints it.
    pub(super) release: String,
}

/// Takes what a distribution installs as `vmlinuz` or what a kernel build leaves as `vmlinux`.
///
/// A bzImage whose payload cannot be entered through PVH is given back as it is.
///
/// # Errors
///
/// Says why this is no kernel that QEMU boots.
pub(super) fn boot_image(data: Vec<u8>) -> Result<BootImage, String> {
    if elf::is_elf(&data) {
        if !elf::has_pvh_entry(&data) {
            return Err(
                "an uncompressed kernel without a PVH note (CONFIG_PVH) cannot be booted; give its bzImage".to_owned()
            );
        }
        let release = banner_release(&data).ok_or("it does not say which release it is")?;
        return Ok(BootImage { bytes: data, pvh: true, release });
    }
    let header = Header::read(&data)?;
    let release = header.release(&data).ok_or("its header does not say which release it is")?;
    let payload = header.payload(&data)?;
    let expanded = expand(payload, LIMIT).map_err(|error| format!("its payload cannot be expanded: {error}"))?;
    if elf::has_pvh_entry(&expanded) {
        return Ok(BootImage { bytes: expanded, pvh: true, release });
    }
    Ok(BootImage { bytes: data, pvh: false, release })
}

/// Fields of the real-mode header.
///
/// Source: Linux, `Documentation/arch/x86/boot.rst`, protocol 2.08 and later.
struct Header {
    setup_sectors: u8,
    kernel_version: u16,
    payload_offset: u32,
    payload_length: u32,
}

impl Header {
    fn read(data: &[u8]) -> Result<Self, String> {
        if data.get(0x1fe..0x200) != Some(&[0x55, 0xaa]) || data.get(0x202..0x206) != Some(b"HdrS") {
            return Err("it is neither an ELF file nor a bzImage".to_owned());
        }
        let header: &[u8; 0x250] = data.first_chunk().ok_or("its header is cut off")?;
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let protocol = u16_at(0x206);
        if protocol < 0x208 {
            return Err(format!("its boot protocol is {}.{:02}, needed is 2.08", protocol >> 8, protocol & 0xff));
        }
        Ok(Self {
            // Zero means four, for the sake of the oldest boot loaders.
            setup_sectors: if header[0x1f1] == 0 { 4 } else { header[0x1f1] },
            kernel_version: u16_at(0x20e),
            payload_offset: u32_at(0x248),
            payload_length: u32_at(0x24c),
        })
    }

    fn payload<'a>(&self, data: &'a [u8]) -> Result<&'a [u8], String> {
        let start = (usize::from(self.setup_sectors) + 1) * 512 + self.payload_offset as usize;
        let end = start + self.payload_length as usize;
        data.get(start..end)
            .filter(|payload| !payload.is_empty())
            .ok_or_else(|| format!("its payload is at bytes {start} to {end}, and the file has {} bytes", data.len()))
    }

    fn release(&self, data: &[u8]) -> Option<String> {
        let text = data.get(0x200 + usize::from(self.kernel_version)..)?;
        first_word(text).filter(|_| self.kernel_version != 0)
    }
}

/// `Linux version 6.1.0-50-amd64 (…)`.
fn banner_release(data: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    memmem::find_iter(data, BANNER).find_map(|at| first_word(&data[at + BANNER.len()..]))
}

fn first_word(text: &[u8]) -> Option<String> {
    let end = text.iter().take(128).position(|&byte| byte == b' ' || byte == 0)?;
    let word = str::from_utf8(&text[..end]).ok()?;
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::boot_image;

    /// The smallest ELF file with a PVH note and a banner.
    pub(in crate::image) fn vmlinux() -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[0x10] = 2; // EXEC
        elf[0x12] = 62; // x86-64
        elf[0x14] = 1;
        elf[0x20] = 64; // program headers
        elf[0x34] = 64;
        elf[0x36] = 56;
        elf[0x38] = 1;
        let mut note = vec![0_u8; 56];
        note[0] = 4; // PT_NOTE
        note[8] = 120; // offset
        note[0x20] = 20; // size
        note[0x30] = 4; // alignment
        elf.extend(note);
        for word in [4_u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x100_0000] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(b"Linux version %s\0Linux version 6.1.0-test (someone) #1\0");
        elf
    }

    pub(in crate::image) fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image[0x300..0x313].copy_from_slice(b"6.1.0-test (someone");
        image.extend([0x90; 16]);
        image.extend(payload);
        image.extend([0; 64]);
        image
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn the_kernel_inside_a_bz_image_is_found() {
        let kernel = boot_image(bz_image(&gzip(&vmlinux()))).unwrap();
        assert!(kernel.pvh);
        assert_eq!(kernel.release, "6.1.0-test");
        assert_eq!(kernel.bytes, vmlinux());
    }

    #[test]
    fn an_uncompressed_kernel_is_taken_as_it_is() {
        let kernel = boot_image(vmlinux()).unwrap();
        assert_eq!((kernel.pvh, kernel.release.as_str()), (true, "6.1.0-test"));
    }

    #[test]
    fn a_bz_image_without_pvh_stays() {
        let mut without = vmlinux();
        without[128] = 17;
        let image = bz_image(&gzip(&without));
        let kernel = boot_image(image.clone()).unwrap();
        assert!(!kernel.pvh);
        assert_eq!(kernel.bytes, image);
        assert!(boot_image(without).unwrap_err().contains("PVH"));
    }

    #[test]
    fn garbage_is_refused_with_the_reason() {
        let check = |data: Vec<u8>, expected: &str| {
            let said = boot_image(data).unwrap_err();
            assert!(said.contains(expected), "{said}");
        };
        check(Vec::new(), "neither");
        check(vec![0x55; 5000], "neither");
        let mut image = bz_image(&gzip(&vmlinux()));
        check(image[..0x210].to_vec(), "header is cut off");
        check(image[..1100].to_vec(), "and the file has 1100 bytes");
        image[0x206] = 7;
        check(image.clone(), "2.07");
        image[0x206] = 0x0f;
        image[1060] ^= 0xff;
        check(image, "payload cannot be expanded");
    }
}
