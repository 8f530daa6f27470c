//! Rows of clusters.

use std::path::Path;

use farm_proto::cluster::{ClusterSpec, Scale};
use farm_proto::ids::ClusterId;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::codec::Sum;
use super::{ClusterRow, StoreError};
use crate::cluster::Wanted;

/// [`Wanted`] as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    spec: ClusterSpec,
    scale: Scale,
    stopping: bool,
    now: bool,
}

/// Writes a cluster over what was known of it.
pub(super) fn write(connection: &Connection, path: &Path, row: &ClusterRow) -> Result<(), StoreError> {
    let corrupt = |error: postcard::Error| StoreError::corrupt(path, format!("cluster {}: {error}", row.name));
    let wanted = row.wanted.clone().map(|Wanted { spec, scale, stopping, now }| Stored { spec, scale, stopping, now });
    let wanted = wanted.map(|wanted| postcard::to_stdvec(&wanted)).transpose().map_err(corrupt)?;
    let sum = sum(row, wanted.as_deref());
    let sql =
        "INSERT OR REPLACE INTO clusters (name, cluster, owner, created_ms, wanted, sum) VALUES (?, ?, ?, ?, ?, ?)";
    let write = || {
        let values =
            params![row.name, row.cluster.0.cast_signed(), row.owner, row.created_ms.cast_signed(), wanted, sum];
        connection.prepare_cached(sql)?.execute(values)
    };
    write().map(drop).map_err(StoreError::of(path))
}

/// All clusters, in the order of their names.
pub(crate) fn read(connection: &Connection, path: &Path) -> Result<Vec<ClusterRow>, StoreError> {
    let sqlite = StoreError::of(path);
    let sql = "SELECT name, cluster, owner, created_ms, wanted, sum FROM clusters ORDER BY name";
    let mut statement = connection.prepare(sql).map_err(&sqlite)?;
    let mut found = statement.query([]).map_err(&sqlite)?;
    let mut rows = Vec::new();
    while let Some(columns) = found.next().map_err(&sqlite)? {
        let read = || -> rusqlite::Result<_> {
            let row = ClusterRow {
                name: columns.get(0)?,
                cluster: ClusterId(columns.get::<_, i64>(1)?.cast_unsigned()),
                owner: columns.get(2)?,
                created_ms: columns.get::<_, i64>(3)?.cast_unsigned(),
                wanted: None,
            };
            Ok((row, columns.get::<_, Option<Vec<u8>>>(4)?, columns.get::<_, [u8; 16]>(5)?))
        };
        let (mut row, wanted, stored) = read().map_err(&sqlite)?;
        let damaged = || StoreError::corrupt(path, format!("table clusters, {:?}: not what was written", row.name));
        if sum(&row, wanted.as_deref()) != stored {
            return Err(damaged());
        }
        if let Some(wanted) = wanted {
            let Stored { spec, scale, stopping, now } = postcard::from_bytes(&wanted).map_err(|_| damaged())?;
            row.wanted = Some(Wanted { spec, scale, stopping, now });
        }
        rows.push(row);
    }
    Ok(rows)
}

fn sum(row: &ClusterRow, wanted: Option<&[u8]>) -> [u8; 16] {
    Sum::new("clusters")
        .bytes(row.name.as_bytes())
        .number(row.cluster.0)
        .bytes(row.owner.as_bytes())
        .number(row.created_ms)
        .number(wanted.is_some().into())
        .bytes(wanted.unwrap_or_default())
        .finish()
}
