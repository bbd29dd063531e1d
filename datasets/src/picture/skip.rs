//! Why a picture cannot be used, as a class that is counted and a detail for people.

/// Why a picture is not in the shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) class: String,
    pub(crate) detail: String,
}

impl Skip {
    pub(crate) fn new(class: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            detail: detail.into(),
        }
    }
}
