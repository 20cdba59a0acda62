//! The greeting: agents of other versions, and what is no agent.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vptest::agent::wire::{Answer, GREETING, PROTOCOL, Preamble};
use vptest::agent::{AgentError, Client, Limits, Lost};

use super::Agent;

/// An agent of another making: answers a greeting with what `make` makes of it.
async fn impostor(make: impl FnOnce(Preamble) -> Vec<u8> + Send + 'static) -> Result<Client, AgentError> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let mut greeting = [0; GREETING];
        theirs.read_exact(&mut greeting).await.unwrap();
        theirs.write_all(&make(Preamble::decode(&greeting).unwrap())).await.unwrap();
        // Open until the host goes.
        let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
    });
    let (read, write) = tokio::io::split(ours);
    let limits = Limits { handshake: Duration::from_millis(300), noise: 4096, ..Limits::default() };
    Client::connect(read, write, limits).await
}

#[tokio::test]
async fn another_protocol_is_named_with_its_version() {
    let other = impostor(|preamble| Answer::encode(7, preamble.nonce, br#"{"version":"9.1","new":[1]}"#));
    match other.await.unwrap_err() {
        AgentError::Protocol { ours: PROTOCOL, theirs: 7, version } => assert_eq!(version, "9.1"),
        error => panic!("{error:?}"),
    }
    let (agent, mut output, mut input) = Agent::start(&[]);
    input.write_all(&Preamble { protocol: 7, silence_ms: 1000, nonce: 3 }.encode()).await.unwrap();
    let mut answer = Vec::new();
    output.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Answer::decode(&answer).unwrap().protocol, PROTOCOL);
    let text: serde_json::Value = serde_json::from_slice(&answer[GREETING..]).unwrap();
    assert_eq!(text["version"], env!("CARGO_PKG_VERSION"));
    assert!(!agent.end().await.success());
}

#[tokio::test]
async fn what_is_no_agent_is_told_apart() {
    let noise = impostor(|_| vec![b'#'; 10_000]).await.unwrap_err();
    assert!(matches!(&noise, AgentError::Noise { beginning, .. } if beginning.starts_with("####")), "{noise:?}");
    let silence = impostor(|_| Vec::new()).await.unwrap_err();
    assert!(matches!(silence, AgentError::NoAnswer { skipped: 0, .. }), "{silence:?}");
    let stale = impostor(|preamble| Answer::encode(PROTOCOL, preamble.nonce ^ 1, b"{}")).await.unwrap_err();
    assert!(matches!(stale, AgentError::NoAnswer { skipped: 1.., .. }), "{stale:?}");
    let text = impostor(|preamble| Answer::encode(PROTOCOL, preamble.nonce, b"{")).await.unwrap_err();
    assert!(matches!(text, AgentError::Answer { .. }), "{text:?}");
}

#[tokio::test]
async fn an_agent_that_talks_nonsense_is_dropped() {
    let client = impostor(|preamble| {
        let hello = br#"{"protocol":1,"version":"0.1.0"}"#;
        [&b"Welcome!\r\n"[..], &Answer::encode(PROTOCOL, preamble.nonce, hello), &[0xee; 64]].concat()
    });
    let error = client.await.unwrap().lost().await;
    assert!(matches!(error, AgentError::Lost(Lost::Malformed(_))), "{error:?}");
}

#[tokio::test]
async fn a_banner_and_half_a_frame_before_the_greeting_are_skipped() {
    let (_agent, output, mut input) = Agent::start(&[]);
    input.write_all(b"what an earlier host left behind \0vptest-host\r\n").await.unwrap();
    let client = Client::connect(output, input, Limits::default()).await.unwrap();
    client.clock(1).await.unwrap();
}

#[tokio::test]
async fn too_much_noise_ends_the_agent() {
    let (agent, _output, mut input) = Agent::start(&[]);
    let noise = vec![b'x'; 8 << 20];
    // It stops reading and goes.
    let _ = input.write_all(&noise).await;
    assert!(!agent.end().await.success());
}
