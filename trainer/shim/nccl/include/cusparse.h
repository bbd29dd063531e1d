// Stands in for cuSPARSE's own header, see cublas_v2.h.
#pragma once
struct cusparseContext;
typedef struct cusparseContext* cusparseHandle_t;
typedef enum { CUSPARSE_STATUS_SUCCESS = 0 } cusparseStatus_t;
