//! What a replay of past deliveries found, as the API shows it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Past deliveries run again, and compared with the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffView {
    /// The plugin.
    pub plugin: String,
    /// BLAKE3 of the module that was run; absent: each delivery ran on the module that served then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The first input.
    pub from: u64,
    /// The last input.
    pub to: u64,
    /// Deliveries with the same outcome and effects.
    pub equal: u64,
    /// Deliveries with another outcome or other effects.
    pub different: u64,
    /// Deliveries that cannot be run again as they were.
    pub not_replayable: u64,
    /// Deliveries that the host ended without running the guest.
    pub passed_over: u64,
    /// The deliveries that are not replayable, by why.
    #[serde(default)]
    pub obstacles: BTreeMap<String, u64>,
    /// The first ones that differ.
    #[serde(default)]
    pub differences: Vec<DifferenceView>,
    /// Why the replay broke off; absent: it went to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// One delivery that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DifferenceView {
    /// Its input.
    pub position: u64,
    /// The key of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What differs.
    pub changes: Vec<ChangeView>,
}

/// Something that is not as it was. Long values are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// What: ``state `sum` ``, `emitted event 1`, `outcome`.
    pub what: String,
    /// How it was.
    pub before: String,
    /// How it is on the module that was run.
    pub after: String,
}
