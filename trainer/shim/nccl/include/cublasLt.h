// Stands in for cuBLASLt's own header, see cublas_v2.h.
#pragma once
#include <cublas_v2.h>
struct cublasLtContext;
typedef struct cublasLtContext* cublasLtHandle_t;
