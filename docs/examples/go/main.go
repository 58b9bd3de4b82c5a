// SPDX-License-Identifier: BSD-3-Clause
package main

// #cgo CFLAGS: -O2
// #cgo LDFLAGS: -lm -lpthread
// #include "fastreg.h"
// static fastreg_status penalty(const float *x, ptrdiff_t n, double l2, double *value)
// {
//     fastreg_array a = {.data = x, .shape = &n, .ndim = 1, .dtype = FASTREG_F32, .l2 = l2};
//     return fastreg_value(&a, 1, FASTREG_F32, NULL, value);
// }
import "C"
import "fmt"

func main() {
	x := make([]float32, 1<<20)
	for i := range x {
		x[i] = 0.5
	}
	var value C.double
	status := C.penalty((*C.float)(&x[0]), C.ptrdiff_t(len(x)), 2, &value)
	if status != 0 || value != 1<<19 {
		panic(C.GoString(C.fastreg_status_text(status)))
	}
	fmt.Println(value)
}
