// Stands in for cuBLAS' own header (a wheel of 400 MB): libtorch's headers name these types, and
// nothing here uses them. Handles are opaque pointers, so no layout is taken for granted.
#pragma once
struct cublasContext;
typedef struct cublasContext* cublasHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS = 0 } cublasStatus_t;
