//! Compact storage of records whose connection has ended: every field once, small numbers in few bytes.

use crate::packet::{Endpoint, Time};

/// Walks over the fields of a record in a fixed order, reading or writing each.
pub(super) trait Visit {
    fn u64(&mut self, field: &mut u64);

    fn i64(&mut self, field: &mut i64) {
        // Zigzag: small magnitudes become small numbers.
        let mut bits = (field.wrapping_shl(1) ^ (*field >> 63)).cast_unsigned();
        self.u64(&mut bits);
        *field = (bits >> 1).cast_signed() ^ -(bits & 1).cast_signed();
    }

    fn u32(&mut self, field: &mut u32) {
        let mut wide = u64::from(*field);
        self.u64(&mut wide);
        *field = u32::try_from(wide).expect("was written from 32 bits");
    }

    fn u16(&mut self, field: &mut u16) {
        let mut wide = u64::from(*field);
        self.u64(&mut wide);
        *field = u16::try_from(wide).expect("was written from 16 bits");
    }

    fn u8(&mut self, field: &mut u8) {
        let mut wide = u64::from(*field);
        self.u64(&mut wide);
        *field = u8::try_from(wide).expect("was written from 8 bits");
    }

    fn bool(&mut self, field: &mut bool) {
        let mut wide = u64::from(*field);
        self.u64(&mut wide);
        *field = wide != 0;
    }

    fn endpoint(&mut self, field: &mut Endpoint) {
        let (mut high, mut low, mut port) = field.words();
        self.u64(&mut high);
        self.u64(&mut low);
        self.u16(&mut port);
        *field = Endpoint::from_words(high, low, port);
    }

    fn time(&mut self, field: &mut Time) {
        let (mut micros, mut below) = field.parts();
        self.i64(&mut micros);
        self.u16(&mut below);
        *field = Time::from_stored(micros, below);
    }

    /// Sums of whole numbers have their low bits clear: turned round they are small.
    fn f64(&mut self, field: &mut f64) {
        let mut bits = field.to_bits().swap_bytes();
        self.u64(&mut bits);
        *field = f64::from_bits(bits.swap_bytes());
    }
}

/// Appends fields to a byte string, seven bits a byte.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Visit for Writer<'_> {
    #[inline]
    fn u64(&mut self, field: &mut u64) {
        let mut rest = *field;
        while rest >= 0x80 {
            self.0.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
            rest >>= 7;
        }
        self.0.push(u8::try_from(rest).expect("seven bits"));
    }
}

/// Takes fields off a byte string that a [`Writer`] made.
pub(super) struct Loader<'a>(pub(super) &'a [u8]);

impl Visit for Loader<'_> {
    fn u64(&mut self, field: &mut u64) {
        let (mut value, mut shift) = (0, 0);
        while let Some((&byte, rest)) = self.0.split_first() {
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(u in any::<u64>(), i in any::<i64>(), w in any::<u32>(), f in any::<f64>()) {
            let (mut u1, mut i1, mut w1, mut f1) = (u, i, w, f);
            let mut bytes = Vec::new();
            let mut writer = Writer(&mut bytes);
            writer.u64(&mut u1);
            writer.i64(&mut i1);
            writer.u32(&mut w1);
            writer.f64(&mut f1);
            let (mut u2, mut i2, mut w2, mut f2) = (0, 0, 0, 0.0);
            let mut loader = Loader(&bytes);
            loader.u64(&mut u2);
            loader.i64(&mut i2);
            loader.u32(&mut w2);
            loader.f64(&mut f2);
            prop_assert_eq!((u, i, w, f.to_bits()), (u2, i2, w2, f2.to_bits()));
            prop_assert!(loader.0.is_empty());
        }
    }
}
