//! The daemon on a host: session, inventory, supervisor, artifact cache
