// Stands in for cuSOLVER's own header, see cublas_v2.h.
#pragma once
#include <cusolver_common.h>
struct cusolverDnContext;
typedef struct cusolverDnContext* cusolverDnHandle_t;
