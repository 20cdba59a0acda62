//! `vptest bundle`, `vptest bundle verify` and `vptest rerun`.

use std::process::Command;

use super::campaign::{Campaign, FAKE};
use super::need;

fn bundled() -> Campaign {
    let campaign = Campaign::planned(FAKE);
    campaign.expect(0, &["run", "-q"]);
    let said =
        campaign.expect(0, &["bundle", "-o", "study.tar.zst", "--author", "A. Nobody", "--license", "CC-BY-4.0"]);
    assert!(said.err.contains("6 attempts, 7 files"), "{}", said.err);
    campaign
}

#[test]
fn a_campaign_is_packed_verified_and_run_again_elsewhere() {
    let campaign = bundled();
    let verified = campaign.expect(0, &["bundle", "verify", "study.tar.zst"]);
    assert!(verified.out.contains("6 iterations planned, 6 attempts, each verified"), "{}", verified.out);
    assert!(verified.out.contains("all files are as they were written"), "{}", verified.out);
    let json = campaign.expect(0, &["bundle", "verify", "study.tar.zst", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json["attempts"].as_u64(), json["problems"].as_array().map(Vec::len)), (Some(6), Some(0)));

    // Another place, which has the bundle alone.
    let other = Campaign::new(FAKE);
    std::fs::copy(campaign.path().join("study.tar.zst"), other.path().join("study.tar.zst")).unwrap();
    let again = other.expect(0, &["rerun", "study.tar.zst", "--iter", "2-3"]);
    assert!(again.err.contains("2 complete"), "{}", again.err);
    assert!(again.out.contains("differ"), "{}", again.out);
    let files = |directory: &std::path::Path| {
        let names =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("00000") && name.ends_with(".db")).collect::<Vec<_>>()
    };
    let (mut new, old) = (files(&other.path().join("rerun")), files(&campaign.out()));
    new.sort();
    assert_eq!(new.len(), 2);
    assert!(new.iter().all(|name| old.contains(name)), "the same iterations: {new:?} {old:?}");
    // `sample` draws the same values for the same iteration.
    let values = |directory: &std::path::Path| {
        let value = |name: &String| {
            let db = rusqlite::Connection::open(directory.join(name)).unwrap();
            db.query_row("SELECT value FROM metric WHERE name = 'rps'", [], |row| row.get::<_, f64>(0)).unwrap()
        };
        new.iter().map(value).collect::<Vec<_>>()
    };
    assert_eq!(values(&other.path().join("rerun")), values(&campaign.out()));
    other.expect(0, &["rerun", "study.tar.zst", "--iter", "1-6"]);
    // The directory of another sweep is left alone.
    let third = Campaign::planned(&FAKE.replace("name        = \"fake\"", "name = \"other\""));
    std::fs::copy(campaign.path().join("study.tar.zst"), third.path().join("study.tar.zst")).unwrap();
    let refused = third.expect(2, &["rerun", "study.tar.zst", "-o", "out"]);
    assert!(refused.err.contains("holds another sweep, `other`"), "{}", refused.err);
}

#[test]
fn the_usual_tools_read_a_bundle() {
    if !need::program("zstd") || !need::program("tar") {
        return;
    }
    let campaign = bundled();
    let sh = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).current_dir(campaign.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    sh("tar --zstd -xf study.tar.zst && cd study && sha256sum -c --strict SHA256SUMS");
    let metadata = std::fs::read(campaign.path().join("study/ro-crate-metadata.json")).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    let graph = metadata["@graph"].as_array().unwrap();
    for entity in graph.iter().filter(|entity| entity["@type"] == "File") {
        let path = campaign.path().join("study").join(entity["@id"].as_str().unwrap());
        let bytes = std::fs::metadata(&path).unwrap().len().to_string();
        assert_eq!(entity["contentSize"].as_str(), Some(bytes.as_str()), "{}", path.display());
    }
    let root = graph.iter().find(|entity| entity["@id"] == "./").unwrap();
    assert_eq!((root["name"].as_str(), root["license"].as_str()), (Some("fake"), Some("CC-BY-4.0")));
    let db = rusqlite::Connection::open(campaign.path().join("study/merged.db")).unwrap();
    assert_eq!(db.query_row("SELECT COUNT(*) FROM iteration", [], |row| row.get::<_, i64>(0)).unwrap(), 6);
    assert!(std::fs::read_to_string(campaign.path().join("study/report.html")).unwrap().contains("</html>"));
}

#[test]
fn what_cannot_be_bundled_or_is_no_bundle_is_said() {
    let campaign = Campaign::planned(FAKE);
    let nothing = campaign.expect(2, &["bundle"]);
    assert!(nothing.err.contains("nothing has been run in out"), "{}", nothing.err);
    let missing = campaign.expect(2, &["bundle", "verify", "nowhere.tar.zst"]);
    assert!(missing.err.contains("nowhere.tar.zst is no bundle"), "{}", missing.err);
    let spec = campaign.expect(4, &["bundle", "verify", "params.toml"]);
    assert!(spec.err.contains("params.toml is no bundle"), "{}", spec.err);
    let campaign = bundled();
    let path = campaign.path().join("study.tar.zst");
    let mut content = std::fs::read(&path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&path, content).unwrap();
    campaign.expect(4, &["bundle", "verify", "study.tar.zst"]);
    let rerun = campaign.expect(4, &["rerun", "study.tar.zst"]);
    assert!(rerun.err.contains("study.tar.zst is "), "{}", rerun.err);
    assert!(!campaign.path().join("rerun").exists());
    // A file that cannot be read is not left out without a word.
    let broken = campaign.out().join(&campaign.files()[0]);
    std::fs::write(&broken, "no database").unwrap();
    let refused = campaign.expect(4, &["bundle", "-o", "other.tar.zst"]);
    assert!(refused.err.contains("1 of 6 iteration files cannot be read"), "{}", refused.err);
    assert!(!campaign.path().join("other.tar.zst").exists());
}
