// SPDX-License-Identifier: BSD-3-Clause
#include "fastreg.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

static ffi::Error penalty(double l2, ffi::Buffer<ffi::F32> x, ffi::ResultBufferR0<ffi::F32> y)
{
    const auto n = static_cast<std::ptrdiff_t>(x.element_count());
    fastreg_array a{};
    a.data = x.typed_data(), a.shape = &n, a.ndim = 1, a.dtype = FASTREG_F32, a.l2 = l2;
    fastreg_options o{};
    o.threads = 1; // XLA runs operations side by side itself
    double value = 0.0;
    if (const auto status = fastreg_value(&a, 1, FASTREG_F32, &o, &value); status != FASTREG_OK)
        return ffi::Error::InvalidArgument(fastreg_status_text(status));
    *y->typed_data() = static_cast<float>(value);
    return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(Penalty, penalty,
                              ffi::Ffi::Bind()
                                  .Attr<double>("l2")
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::BufferR0<ffi::F32>>());
