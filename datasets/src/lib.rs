//! Fetch and preprocess: sources, tables, splits, shards; the binary marquee-prep
