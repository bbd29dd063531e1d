//! All the SQL: one file per table family, checked macros
