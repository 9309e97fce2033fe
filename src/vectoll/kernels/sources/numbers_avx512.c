#define WRITE vectoll_write_vectors_avx512

#include "numbers.h"
