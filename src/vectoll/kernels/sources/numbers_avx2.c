/* For CPUs without AVX-512. */
#define WRITE vectoll_write_vectors_avx2

#include "numbers.h"
