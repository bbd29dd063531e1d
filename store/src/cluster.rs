//! Which cluster this is: an id that stays with the database, by which workers and clients tell it from others.

use uuid::Uuid;

use crate::{Conn, Result};

/// The cluster's id.
pub async fn get_cluster_id(conn: &mut Conn) -> Result<Uuid> {
    let id = sqlx::query_scalar!("SELECT id FROM cluster")
        .fetch_one(conn.sql())
        .await?;
    Ok(id)
}
