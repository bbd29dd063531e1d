//! Real Postgres, coordinator, workers and children, tried from the outside
