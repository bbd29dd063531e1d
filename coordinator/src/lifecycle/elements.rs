//! Elements of arrays become jobs shortly before their turn, so that a million that are queued cost nothing.

use marquee_domain::ids::JobId;
use marquee_store::{StoreError, elements, pipelines, transitions};

use super::Result;
use crate::app::App;

/// Elements that become jobs in one transaction: an array of that many is stored within a second.
const AT_ONCE_MAX: u32 = 10_000;

/// Makes the next elements jobs, of those arrays that have few in line. The round that follows reads them.
pub async fn line_up_elements(app: &App) -> Result<()> {
    let mut wanted = app
        .index
        .open()
        .elements_wanted(app.settings.elements_ahead);
    let mut left = AT_ONCE_MAX;
    wanted.retain_mut(|(_, count)| {
        *count = (*count).min(left);
        left -= *count;
        *count > 0
    });
    if wanted.is_empty() {
        return Ok(());
    }
    insert(app, &wanted).await
}

/// Makes the elements of an array jobs up to this one, which somebody named; those of an array that waits wait with it.
/// None: it has none of this index, or none that is to come.
pub async fn line_up_to(app: &App, array: JobId, index: u32) -> Result<Option<JobId>> {
    let left = {
        let mut conn = app.db.read().await?;
        elements::find_left(&mut conn, array).await?
    };
    let Some(left) = left.filter(|left| index < left.size) else {
        return Ok(None);
    };
    // Those before it come with it: they are the first ones of their array, always. One that became a job since was counted
    // too, and then others follow: a few more do no harm.
    let count = (index + 1).saturating_sub(left.size - left.to_come);
    insert(app, &[(array, count)]).await?;
    let mut conn = app.db.read().await?;
    Ok(elements::find_element(&mut conn, array, index).await?)
}

async fn insert(app: &App, wanted: &[(JobId, u32)]) -> Result<()> {
    let arrays: Vec<JobId> = wanted.iter().map(|(array, _)| *array).collect();
    match store(app, &arrays, wanted).await {
        // They were cancelled meanwhile, or another one was faster: what is known of them is old.
        Ok(made) if made.is_empty() => app.index.touch(arrays),
        Ok(made) => app.index.touch(made),
        Err(error) => {
            // It may be committed all the same.
            app.index.touch(arrays);
            return Err(error.into());
        }
    }
    app.wake.notify_one();
    Ok(())
}

async fn store(
    app: &App,
    arrays: &[JobId],
    wanted: &[(JobId, u32)],
) -> std::result::Result<Vec<JobId>, StoreError> {
    let mut tx = app.db.write("elements").await?;
    // Whoever cancels an array has the same lock, so that none becomes a job that was cancelled.
    let of = transitions::list_pipelines_of_jobs(&mut tx, arrays).await?;
    pipelines::lock_pipelines(&mut tx, &of).await?;
    let made = elements::insert_elements(&mut tx, wanted).await?;
    tx.commit().await?;
    Ok(made)
}
