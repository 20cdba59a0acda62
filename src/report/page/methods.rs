//! The methods text, as a paper would have it.

use super::build::Inputs;
use super::model::Model;

/// Writes it into `model`, whose other parts are done.
pub(super) fn write(model: &mut Model, inputs: &Inputs<'_>) {
    let mut text = Vec::new();
    text.push(execution(model));
    text.push(unit(model, inputs));
    if !model.pairs.is_empty() {
        text.extend(super::judge::methods(model));
    }
    if !model.chains.is_empty() {
        text.push(format!(
            "System calls of each process were followed as chains; the distance of two groups is the Jensen–Shannon divergence of their \
             mean shares of transitions [{}]. Its null distribution is over deals of whole iterations into groups of the same sizes \
             (seed {}), and single transitions are given at a false-discovery rate of 5 % [{}].",
            cite(model, LIN),
            inputs.seed,
            cite(model, BENJAMINI)
        ));
    }
    model.methods = text;
}

const LIN: &str =
    "J. Lin: Divergence measures based on the Shannon entropy. IEEE Transactions on Information Theory 37(1), 1991.";
pub(super) const BENJAMINI: &str = "Y. Benjamini, Y. Hochberg: Controlling the false discovery rate. Journal of the Royal Statistical Society B 57(1), 1995.";

/// The number of a work in the list of references; puts it there if it is not.
pub(super) fn cite(model: &mut Model, work: &str) -> usize {
    if let Some(at) = model.references.iter().position(|known| known == work) {
        return at + 1;
    }
    model.references.push(work.to_owned());
    model.references.len()
}

fn execution(model: &Model) -> String {
    let c = &model.counts;
    let times = c.time.as_ref().map_or_else(String::new, |(from, to)| format!(" between {from} and {to}"));
    let hosts = match c.hosts.len() {
        0 => String::new(),
        1 => " on one host".to_owned(),
        n => format!(" on {n} hosts"),
    };
    let factors = if model.factors.is_empty() {
        String::new()
    } else {
        format!(", which differ in {}", model.factors.join(", "))
    };
    let constant = if model.constant.is_empty() {
        String::new()
    } else {
        let pairs: Vec<String> = model.constant.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        format!(" Constant were {}.", pairs.join(", "))
    };
    format!(
        "vptest {} ran {} iterations{times}{hosts}, in {} groups{factors}.{constant} Settings were read back from the system before and \
         after the workload; what could not be read is counted under Settings.",
        if c.versions.is_empty() { env!("CARGO_PKG_VERSION").to_owned() } else { c.versions.join(", ") },
        c.iterations,
        model.groups.len(),
    )
}

fn unit(model: &Model, inputs: &Inputs<'_>) -> String {
    let c = &model.counts;
    let statuses: Vec<&str> = inputs.statuses.iter().map(|status| status.as_str()).collect();
    let sizes = model.groups.iter().map(|group| group.n);
    let each = match (sizes.clone().min(), sizes.max()) {
        (Some(least), Some(most)) if least == most => format!(", {least} in each group"),
        (Some(least), Some(most)) => format!(", {least} to {most} in each group"),
        _ => String::new(),
    };
    format!(
        "The unit of analysis is the iteration: pairs of nodes that share hardware are averaged within it, and connections are never \
         pooled across iterations. {} of {} iterations count{each}; only those that ended as {} do. The others are listed with their \
         reasons under Validity. Where an iteration was tried several times, its complete attempt that finished first stands for it.",
        c.counted,
        c.iterations,
        statuses.join(" or "),
    )
}
