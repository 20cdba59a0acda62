//! Any bytes as one side's half of a conversation with an agent: greeting, then frames, whole and cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vptest::agent::wire::{Answer, Decoded, HEADER, MAX_PAYLOAD, Preamble, decode, skip_to_greeting};

fuzz_target!(|data: &[u8]| {
    for of_host in [true, false] {
        let at = skip_to_greeting(data, of_host);
        assert!(at <= data.len());
        let _ = (Preamble::decode(&data[at..]), Answer::decode(&data[at..]));
    }
    let Some((nonce, mut rest)) = data.split_first_chunk::<8>() else { return };
    let nonce = u64::from_le_bytes(*nonce);
    let mut offset = 0;
    loop {
        match decode(rest, nonce, offset) {
            Ok(Decoded::Frame(frame, taken)) => {
                assert!(frame.payload.len() <= MAX_PAYLOAD && taken == HEADER + frame.payload.len());
                // What is cut is asked for, never taken for something else.
                assert!(matches!(decode(&rest[..taken - 1], nonce, offset), Ok(Decoded::Need(need)) if need <= taken));
                rest = &rest[taken..];
                offset += taken as u64;
            }
            Ok(Decoded::Skip(taken)) => {
                rest = &rest[taken..];
                offset += taken as u64;
            }
            Ok(Decoded::Need(need)) => {
                assert!(need > rest.len() && need <= HEADER + MAX_PAYLOAD);
                return;
            }
            Err(error) => {
                assert_eq!(error.offset, offset);
                return;
            }
        }
    }
});
