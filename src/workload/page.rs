//! What the HTTP servers of preset `ab` serve: the same bytes from both of them, on every host and in every run.

use std::sync::LazyLock;

use hyper::body::Bytes;

use crate::units::ByteSize;

/// Largest image served.
pub(super) const IMAGE_LIMIT: u64 = 16 << 30;

/// The page at `/`: 615 bytes, the size of nginx's own welcome page, as a small page of ordinary size.
pub(super) const ROOT: &[u8] = {
    const HEAD: &[u8] = b"<!DOCTYPE html>\n<html>\n<head><title>vptest</title></head>\n<body>\n<p>";
    const TAIL: &[u8] = b"</p>\n</body>\n</html>\n";
    const SIZE: usize = 615;
    const PAGE: [u8; SIZE] = {
        let mut page = [b'.'; SIZE];
        let mut i = 0;
        while i < HEAD.len() {
            page[i] = HEAD[i];
            i += 1;
        }
        i = 0;
        while i < TAIL.len() {
            page[SIZE - TAIL.len() + i] = TAIL[i];
            i += 1;
        }
        page
    };
    &PAGE
};

/// Something that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// `/`
    Root,
    /// `/image.png?size=16MB`: pseudo-random bytes of exactly that size.
    Image(ByteSize),
}

/// A URL that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPage {
    /// There is nothing of that name.
    NotFound,
    /// The size does not parse, or is above the limit.
    BadSize,
}

/// What a URL's path and query ask for.
pub(super) fn lookup(url: &str) -> Result<Page, NoPage> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    match (path, query) {
        ("/", _) => Ok(Page::Root),
        ("/image.png", Some(query)) => {
            let size = query.split('&').find_map(|part| part.strip_prefix("size=")).ok_or(NoPage::BadSize)?;
            size_from(size).map(Page::Image).ok_or(NoPage::BadSize)
        }
        ("/image.png", None) => Err(NoPage::BadSize),
        _ => Err(NoPage::NotFound),
    }
}

/// `16MB`, `1MiB`, `500kB`, `1500B`, `1500`: decimal prefixes are powers of 1000, `Ki`, `Mi`, `Gi` powers of 1024. A
/// space between number and unit may be written `%20` or `+`.
fn size_from(text: &str) -> Option<ByteSize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix("%20").or_else(|| unit.strip_prefix(['+', ' '])).unwrap_or(unit);
    let factor = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let size = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (size <= IMAGE_LIMIT).then_some(ByteSize(size))
}

/// Length of the block that images repeat.
const BLOCK: usize = 1 << 20;

/// Pseudo-random bytes, the same everywhere: SplitMix64 (Steele, Lea, Flood 2014) from a fixed seed.
static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 0x7670_7465_7374_u64;
    let words = (0..BLOCK / 8).flat_map(|_| splitmix(&mut state).to_le_bytes());
    Bytes::from(words.collect::<Vec<u8>>())
});

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bytes of an image, chunk after chunk, each a slice of one shared block: nothing is copied and nothing kept for
/// each size. Where in the block an image begins depends on its size.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    offset: usize,
    left: u64,
}

impl Chunks {
    /// All bytes of an image of that size.
    pub(super) fn of(size: ByteSize) -> Self {
        let mut seed = size.0;
        let offset = usize::try_from(splitmix(&mut seed) % BLOCK as u64).expect("a remainder of 2^20 fits");
        Self { offset, left: size.0 }
    }

    /// Bytes still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let room = BLOCK - self.offset;
        let length = usize::try_from(self.left).map_or(room, |left| left.min(room));
        let chunk = NOISE.slice(self.offset..self.offset + length);
        self.offset = 0;
        self.left -= length as u64;
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_or_refused() {
        let image = |size| Ok(Page::Image(ByteSize(size)));
        for (url, page) in [
            ("/", Ok(Page::Root)),
            ("/image.png?size=16MB", image(16_000_000)),
            ("/image.png?size=1MiB", image(1 << 20)),
            ("/image.png?size=1%20MB", image(1_000_000)),
            ("/image.png?size=0", image(0)),
            ("/image.png?a=b&size=16GiB", image(16 << 30)),
            ("/image.png?size=17GiB", Err(NoPage::BadSize)),
            ("/image.png?size=99999999999999999999GB", Err(NoPage::BadSize)),
            ("/image.png?size=18446744073709551615GiB", Err(NoPage::BadSize)),
            ("/image.png?size=1mb", Err(NoPage::BadSize)),
            ("/image.png?size=MB", Err(NoPage::BadSize)),
            ("/image.png?size=-1", Err(NoPage::BadSize)),
            ("/image.png?size=1.5MB", Err(NoPage::BadSize)),
            ("/image.png", Err(NoPage::BadSize)),
            ("/favicon.ico", Err(NoPage::NotFound)),
            ("", Err(NoPage::NotFound)),
        ] {
            assert_eq!(lookup(url), page, "{url}");
        }
    }

    #[test]
    fn images_have_their_size_and_always_the_same_bytes() {
        for size in [0, 1, 1000, BLOCK as u64 - 1, BLOCK as u64, 5_000_001] {
            let bytes: Vec<u8> = Chunks::of(ByteSize(size)).flatten().collect();
            assert_eq!(bytes.len() as u64, size);
            assert_eq!(bytes, Chunks::of(ByteSize(size)).flatten().collect::<Vec<u8>>());
        }
        let start = |size| Chunks::of(ByteSize(size)).flatten().take(64).collect::<Vec<u8>>();
        assert_ne!(start(1_000_000), start(1_000_001), "another size is another image");
        // A change of these bytes changes what campaigns measured: it must be deliberate.
        let bytes: Vec<u8> = Chunks::of(ByteSize(1_000_000)).flatten().collect();
        assert_eq!(crate::ids::ShortHash::of(&bytes).to_string(), "645b75e48194");
        assert_eq!(crate::ids::ShortHash::of(ROOT).to_string(), "4a18e9608e79");
    }
}
