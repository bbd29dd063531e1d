// Stands in for cuSOLVER's own header, see cublas_v2.h.
#pragma once
typedef enum { CUSOLVER_STATUS_SUCCESS = 0 } cusolverStatus_t;
