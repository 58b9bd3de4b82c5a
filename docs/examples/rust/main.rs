// SPDX-License-Identifier: BSD-3-Clause
use std::os::raw::{c_int, c_void};

#[repr(C)]
struct Array {
    data: *const c_void,
    gradient: *mut c_void,
    shape: *const isize,
    strides: *const isize,
    gradient_strides: *const isize,
    ndim: c_int,
    dtype: i32,
    l1: f64,
    l2: f64,
}
const F64: i32 = 3;

extern "C" {
    fn fastreg_value(a: *const Array, n: usize, result: i32, o: *const c_void, v: *mut f64) -> i32;
    fn fastreg_abi() -> i32;
}

fn penalty(x: &[f64], l1: f64, l2: f64) -> Result<f64, i32> {
    let shape = x.len() as isize;
    let none = std::ptr::null();
    let a = Array {
        data: x.as_ptr().cast(), gradient: std::ptr::null_mut(), shape: &shape, strides: none,
        gradient_strides: none, ndim: 1, dtype: F64, l1, l2,
    };
    let mut value = 0.0;
    match unsafe { fastreg_value(&a, 1, F64, std::ptr::null(), &mut value) } {
        0 => Ok(value),
        status => Err(status),
    }
}

fn main() {
    assert_eq!(unsafe { fastreg_abi() }, 1);
    // 1 + 2^60: the plain sum of squares loses the 1 in each of its 1000 terms.
    let x: Vec<f64> = std::iter::once((1u64 << 30) as f64).chain((0..1024).map(|_| 1.0)).collect();
    assert_eq!(penalty(&x, 0.0, 1.0), Ok(((1u64 << 60) + 1024) as f64));
    assert_eq!(penalty(&x, -1.0, 1.0), Err(2));
    println!("{}", penalty(&x, 0.0, 1.0).unwrap());
}
