//! `ro-crate-metadata.json`. Pure.

use serde_json::{Value, json};

use super::{ARTIFACTS, DATABASE, ENVIRONMENT, METADATA, PLAN, REPORT, SPEC, SUMS};

/// The profile that a bundle follows.
pub const PROFILE: &str = "https://w3id.org/ro/crate/1.1";

/// What is known of a study besides its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Name of the sweep.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// When the bundle was made: `2026-11-29T11:00:00Z`.
    pub made: String,
    /// Who made it; `None` when nobody said.
    pub author: Option<String>,
    /// Address of the licence, or its SPDX name; `None` when nobody said.
    pub license: Option<String>,
    /// When the first attempt began and the last one ended; `None` without one.
    pub ran: Option<(String, String)>,
    /// Versions of vptest that ran it.
    pub versions: Vec<String>,
}

/// The document for these files, each with its bytes.
pub(super) fn document(about: &About, files: &[(String, u64)]) -> Value {
    let reference = |id: &str| json!({ "@id": id });
    let parts: Vec<Value> = files.iter().map(|(name, _)| reference(name)).collect();
    let mut root = json!({
        "@id": "./",
        "@type": "Dataset",
        "name": about.name,
        "description": about.description,
        "datePublished": about.made,
        "hasPart": parts,
        "mentions": reference("#run"),
    });
    let mut graph = vec![json!({
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": reference(PROFILE),
        "about": reference("./"),
    })];
    if let Some(license) = &about.license {
        root["license"] = if license.contains("://") { reference(license) } else { json!(license) };
    }
    if let Some(author) = &about.author {
        root["author"] = reference("#author");
        graph.push(json!({ "@id": "#author", "@type": "Person", "name": author }));
    }
    graph.push(root);
    graph.extend(files.iter().map(|(name, bytes)| file(name, *bytes)));
    let mut run = json!({
        "@id": "#run",
        "@type": "CreateAction",
        "name": format!("Run of the sweep {}", about.name),
        "instrument": reference("#vptest"),
        "object": [reference(SPEC), reference(PLAN)],
        "result": [reference(DATABASE)],
    });
    if let Some((begin, end)) = &about.ran {
        (run["startTime"], run["endTime"]) = (json!(begin), json!(end));
    }
    graph.push(run);
    graph.push(json!({
        "@id": "#vptest",
        "@type": "SoftwareApplication",
        "name": "vptest",
        "softwareVersion": about.versions.join(", "),
    }));
    json!({ "@context": format!("{PROFILE}/context"), "@graph": graph })
}

fn file(name: &str, bytes: u64) -> Value {
    let (kind, what) = match name {
        SPEC => ("application/toml", "The sweep spec"),
        PLAN => ("application/json", "All iterations in the order in which they were to be run"),
        DATABASE => ("application/vnd.sqlite3", "All attempts at iterations, with everything that was measured"),
        REPORT => ("text/html", "Everything that was measured, on one page"),
        ENVIRONMENT => ("application/json", "Facts about hosts and nodes, versions of programs"),
        SUMS => ("text/plain", "SHA-256 of all other files"),
        _ if name.starts_with(ARTIFACTS) => ("application/octet-stream", "Kept with an attempt, as the spec asked"),
        _ => ("application/octet-stream", "Part of the study"),
    };
    json!({
        "@id": name,
        "@type": "File",
        "name": name,
        "description": what,
        "encodingFormat": kind,
        "contentSize": bytes.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let about = About {
            name: "x".to_owned(),
            author: Some("A. Nobody".to_owned()),
            license: Some("https://creativecommons.org/licenses/by/4.0/".to_owned()),
            ran: Some(("2026-01-01T00:00:00Z".to_owned(), "2026-01-02T00:00:00Z".to_owned())),
            ..About::default()
        };
        let files = [SPEC, PLAN, DATABASE, REPORT, ENVIRONMENT, SUMS].map(|name| (name.to_owned(), 1));
        let document = document(&about, &files);
        let graph = document["@graph"].as_array().unwrap();
        let known: Vec<&str> = graph.iter().map(|entity| entity["@id"].as_str().unwrap()).collect();
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) if members.len() == 1 => {
                    found.extend(members.get("@id").and_then(Value::as_str))
                }
                Value::Object(members) => members.values().for_each(|value| references(value, found)),
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 10);
        let outside = |id: &&&str| !id.starts_with("https://");
        assert!(found.iter().filter(outside).all(|id| known.contains(id)), "{found:?} {known:?}");
    }
}
