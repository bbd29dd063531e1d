//! How long data may be used.

use chrono::{Days, NaiveDate};
use marquee_domain::spec::FetchSettings;

/// Days that data may be used where its source wants rights and the settings set no limit: TMDb's
/// terms forbid to cache its content for more than six months.
const RETENTION_DAYS: u32 = 180;

/// The last day on which data fetched `today` may be used, if there is one.
pub(super) fn use_until(
    fetch: &FetchSettings,
    needs_rights: bool,
    today: NaiveDate,
) -> Option<String> {
    let by_source = needs_rights.then_some(RETENTION_DAYS);
    let days = fetch.retention_days.or(by_source)?;
    let day = today.checked_add_days(Days::new(u64::from(days)))?;
    Some(day.to_string())
}
