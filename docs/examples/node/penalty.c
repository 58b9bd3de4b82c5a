/* SPDX-License-Identifier: BSD-3-Clause
 *
 * penalty(typedArray, l1, l2) for Node.
 */
#include "fastreg.h"

#include <node_api.h>

static napi_value penalty(napi_env env, napi_callback_info info)
{
    /* In the order of napi_typedarray_type. */
    static const fastreg_dtype types[] = {FASTREG_I8,  FASTREG_U8,  FASTREG_U8,  FASTREG_I16,
                                          FASTREG_U16, FASTREG_I32, FASTREG_U32, FASTREG_F32,
                                          FASTREG_F64, FASTREG_I64, FASTREG_U64};
    size_t given = 3, n = 0;
    napi_value arguments[3], result = NULL;
    napi_typedarray_type type = napi_int8_array;
    void *data = NULL;
    double l1 = 0.0, l2 = 0.0, value = 0.0;
    napi_get_cb_info(env, info, &given, arguments, NULL, NULL);
    if (given != 3 ||
        napi_get_typedarray_info(env, arguments[0], &type, &n, &data, NULL, NULL) != napi_ok ||
        napi_get_value_double(env, arguments[1], &l1) != napi_ok ||
        napi_get_value_double(env, arguments[2], &l2) != napi_ok ||
        (size_t)type >= sizeof types / sizeof types[0]) {
        napi_throw_type_error(env, NULL, "expected a typed array and two weights");
        return NULL;
    }
    const ptrdiff_t shape = (ptrdiff_t)n;
    const fastreg_array a = {
        .data = data, .shape = &shape, .ndim = 1, .dtype = types[type], .l1 = l1, .l2 = l2};
    const fastreg_status status = fastreg_value(&a, 1, FASTREG_F64, NULL, &value);
    if (status != FASTREG_OK)
        napi_throw_range_error(env, NULL, fastreg_status_text(status));
    else
        napi_create_double(env, value, &result);
    return result;
}

NAPI_MODULE_INIT()
{
    napi_value function;
    napi_create_function(env, "penalty", NAPI_AUTO_LENGTH, penalty, NULL, &function);
    napi_set_named_property(env, exports, "penalty", function);
    return exports;
}
