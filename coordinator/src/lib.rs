//! gRPC in, decisions, gRPC out
