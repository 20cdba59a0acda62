//! `OUT/plan.json` on disk.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::{Exit, Failure};
use crate::plan::Plan;

/// Name of the plan in a campaign's directory.
pub(super) fn path(out: &Path) -> PathBuf {
    out.join("plan.json")
}

/// Reads the plan of a campaign.
pub(super) fn read(out: &Path) -> Result<Plan, Failure> {
    let path = path(out);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::text(Exit::Usage, format!("there is no plan in {}", out.display()))
                .hint("`vptest sweep SPEC` writes one; -o names its directory"));
        }
        Err(error) => {
            let error = anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
            return Err(Failure::new(Exit::Unreadable, error));
        }
    };
    Plan::from_json(&bytes).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot use {}", path.display()));
        Failure::new(Exit::Unreadable, error).hint("`vptest sweep SPEC` writes it anew; iterations that were run stay")
    })
}

/// Writes the plan beside its place, then puts it there: it is absent or whole.
pub(super) fn write(out: &Path, plan: &Plan) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let path = path(out);
    let name = || format!("cannot write {}", path.display());
    let mut file = tempfile::Builder::new().prefix(".plan.json.").suffix(".tmp").tempfile_in(out).with_context(name)?;
    {
        let mut buffered = std::io::BufWriter::new(file.as_file_mut());
        plan.to_json(&mut buffered).and_then(|()| buffered.flush()).with_context(name)?;
    }
    file.as_file().sync_all().with_context(name)?;
    // Readable like any other file of the campaign, not only by its owner.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(file.path(), mode).with_context(name)?;
    file.persist(&path).with_context(name)?;
    Ok(path)
}
