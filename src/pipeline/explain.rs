//! Why one linear gets what it gets: the stages up to the decisions, and nothing written.

use serde::Serialize;

use super::error::PipelineError;
use super::export::{decide, plan};
use super::progress::Progress;
use super::report::REPORT_VERSION;
use super::request::ExportRequest;
use crate::quantize::{LinearDecision, LinearPlan};

/// One linear of a plan, and what was weighed for it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Format version.
    pub schema_version: u32,
    /// Recipe name.
    pub recipe: String,
    /// What it gets.
    pub linear: LinearPlan,
    /// What it got it for; none where the recipe leaves no choice.
    pub decision: Option<LinearDecision>,
}

/// Decides as an export of `request` would, and says what became of the linear `role`.
///
/// # Errors
/// [`PipelineError`] as for an export; [`PipelineError::NoLinear`] when there is no such linear.
pub fn explain(
    request: &ExportRequest,
    role: &str,
    progress: &mut dyn Progress,
) -> Result<Explanation, PipelineError> {
    let plan = plan(request)?;
    if !plan.linears.linears.iter().any(|l| l.role == role) {
        let similar = |name: &str| (strsim::jaro_winkler(name, role) * 1e6) as i64;
        let names = plan.linears.linears.iter().map(|l| l.role.clone());
        let nearest = names.max_by_key(|name| similar(name)).unwrap_or_default();
        return Err(PipelineError::NoLinear { role: role.to_string(), nearest });
    }
    let (_, decided) = decide(&plan, request, progress)?;
    let gone = || PipelineError::NoLinear { role: role.to_string(), nearest: String::new() };
    let linear = decided.plan.linears.into_iter().find(|l| l.role == role).ok_or_else(gone)?;
    let decision = decided.decisions.into_iter().find(|d| d.role == role);
    Ok(Explanation { schema_version: REPORT_VERSION, recipe: request.recipe.name.clone(), linear, decision })
}
