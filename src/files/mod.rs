//! The embedded source: a folder of YAML → [`Snapshot`](crate::model::Snapshot), watched.
