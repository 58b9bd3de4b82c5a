// SPDX-License-Identifier: BSD-3-Clause
#include "fastreg.h"

#include <torch/extension.h>

// The types in fastreg's order of its first four.
static fastreg_dtype type_of(const torch::Tensor &x)
{
    switch (x.scalar_type()) {
    case torch::kHalf:
        return FASTREG_F16;
    case torch::kBFloat16:
        return FASTREG_BF16;
    case torch::kFloat:
        return FASTREG_F32;
    case torch::kDouble:
        return FASTREG_F64;
    default:
        TORCH_CHECK(false, "expected a float tensor");
    }
}

struct Described {
    std::vector<std::ptrdiff_t> shape, strides;
    fastreg_array array{};
    Described(const torch::Tensor &x, double l1, double l2)
    {
        TORCH_CHECK(x.device().is_cpu() && x.layout() == torch::kStrided, "expected a CPU tensor");
        for (int d = 0; d < x.dim(); ++d) {
            shape.push_back(x.size(d));
            strides.push_back(x.stride(d) * x.element_size());
        }
        array.data = x.data_ptr(), array.shape = shape.data(), array.strides = strides.data();
        array.ndim = static_cast<int>(x.dim()), array.dtype = type_of(x);
        array.l1 = l1, array.l2 = l2;
    }
};

static void check(fastreg_status status)
{
    TORCH_CHECK(status == FASTREG_OK, fastreg_status_text(status));
}

struct Penalty : torch::autograd::Function<Penalty> {
    static torch::Tensor forward(torch::autograd::AutogradContext *context, const torch::Tensor &x,
                                 double l1, double l2)
    {
        context->save_for_backward({x});
        context->saved_data["l1"] = l1, context->saved_data["l2"] = l2;
        const Described d(x, l1, l2);
        double value = 0.0;
        check(fastreg_value(&d.array, 1, d.array.dtype, nullptr, &value));
        return torch::full({}, value, x.options());
    }
    static torch::autograd::tensor_list backward(torch::autograd::AutogradContext *context,
                                                 torch::autograd::tensor_list upstream)
    {
        const auto x = context->get_saved_variables()[0];
        auto g = torch::empty_like(x);
        Described d(x, context->saved_data["l1"].toDouble(), context->saved_data["l2"].toDouble());
        const Described of(g, 0.0, 0.0);
        d.array.gradient = g.data_ptr(), d.array.gradient_strides = of.strides.data();
        check(fastreg_gradient(&d.array, 1, upstream[0].item<double>(), 0, nullptr));
        return {g, torch::Tensor(), torch::Tensor()};
    }
};

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m)
{
    m.def("penalty",
          [](const torch::Tensor &x, double l1, double l2) { return Penalty::apply(x, l1, l2); });
}
