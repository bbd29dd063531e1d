// See context.h. libtorch's header includes this file, but uses nothing of it.
#pragma once

#include <cstddef>
