//! Listings that come in pages.

use anyhow::anyhow;

use crate::error::Result;

/// Rows of one request; a longer listing takes several.
const PAGE_SIZE: usize = 1_000;

/// The first `limit` rows of a listing, and whether there are more. `ask` is given the size of a
/// page and the token of the page before, and answers with rows and the next token, empty at the end.
pub(super) async fn first<T>(
    limit: usize,
    mut ask: impl AsyncFnMut(u32, String) -> Result<(Vec<T>, String)>,
) -> Result<(Vec<T>, bool)> {
    let mut rows = Vec::new();
    let mut token = String::new();
    loop {
        // At least one, also with a limit of 0: whether there are more is only known by asking.
        let wanted = limit.saturating_sub(rows.len()).clamp(1, PAGE_SIZE);
        let (page, next) = ask(u32::try_from(wanted).unwrap_or(u32::MAX), token).await?;
        if page.is_empty() && !next.is_empty() {
            // Asking for the next page again and again would never end.
            return Err(
                anyhow!("the coordinator sent an empty page of a list that goes on").into(),
            );
        }
        rows.extend(page);
        let is_last = next.is_empty();
        if is_last || rows.len() >= limit {
            let more = !is_last || rows.len() > limit;
            rows.truncate(limit);
            return Ok((rows, more));
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listing of the numbers below `total`, as a coordinator would page it.
    async fn numbers(total: usize, limit: usize) -> (Vec<usize>, bool, Vec<u32>) {
        let mut sizes = Vec::new();
        let (rows, more) = first(limit, async |size, token| {
            sizes.push(size);
            let start: usize = if token.is_empty() {
                0
            } else {
                token.parse().unwrap()
            };
            let end = total.min(start + size as usize);
            let next = if end < total {
                end.to_string()
            } else {
                String::new()
            };
            Ok(((start..end).collect(), next))
        })
        .await
        .unwrap();
        (rows, more, sizes)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_listing_goes_over_as_many_pages_as_it_takes_and_says_whether_there_is_more() {
        let (rows, more, sizes) = numbers(2_300, usize::MAX).await;
        assert_eq!(rows, (0..2_300).collect::<Vec<_>>());
        assert_eq!((more, sizes), (false, vec![1_000; 3]));
        let (rows, more, sizes) = numbers(2_300, 1_200).await;
        assert_eq!((rows.len(), more, sizes), (1_200, true, vec![1_000, 200]));
        let (rows, more, _) = numbers(50, 50).await;
        assert_eq!((rows.len(), more), (50, false));
        let (rows, more, _) = numbers(5, 0).await;
        assert_eq!((rows.len(), more), (0, true));
        assert_eq!(numbers(0, 50).await, (vec![], false, vec![50]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_list_that_goes_on_without_rows_is_an_error_and_no_endless_loop() {
        let endless = first(9, async |_, _| Ok((Vec::<u8>::new(), "more".to_owned()))).await;
        assert!(endless.unwrap_err().to_string().contains("empty page"));
    }
}
