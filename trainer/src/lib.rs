//! Train, eval and predict with libtorch, one process per rank; the binary marquee-trainer
