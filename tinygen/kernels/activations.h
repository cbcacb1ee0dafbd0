// The kernels of each activation, from the templates `forward`, `backward_of_output` and
// `backward_of_input` of the file that includes this one.

#pragma once
#include "formulas.h"
#include "kernels.h"

#define FORWARD(name, activation)                                                                 \
    KERNEL(name)(float* y, const float* x, const float* bias, i64 bias_row, i64 rows,             \
                 i64 columns) {                                                                   \
        forward<activation>(y, x, bias, bias_row, rows, columns);                                 \
    }
FORWARD(bias_tanh, hyperbolic_tangent)
FORWARD(bias_sigmoid, logistic)
FORWARD(bias_relu, relu)
FORWARD(bias_leaky_relu, leaky_relu)
FORWARD(bias_silu, silu)
FORWARD(bias_gelu, gelu)

#define BACKWARD_OF_OUTPUT(name, slope)                                                           \
    KERNEL(name)(float* d, const float* g, const float* y, i64 n) {                               \
        backward_of_output<slope>(d, g, y, n);                                                    \
    }
BACKWARD_OF_OUTPUT(tanh_backward, tanh_slope)
BACKWARD_OF_OUTPUT(sigmoid_backward, sigmoid_slope)
BACKWARD_OF_OUTPUT(relu_backward, relu_slope)

#define BACKWARD_OF_INPUT(name, slope)                                                            \
    KERNEL(name)(float* d, const float* g, const float* x, const float* bias, i64 bias_row,       \
                 i64 rows, i64 columns) {                                                         \
        backward_of_input<slope>(d, g, x, bias, bias_row, rows, columns);                         \
    }
BACKWARD_OF_INPUT(bias_leaky_relu_backward, leaky_relu_slope)
BACKWARD_OF_INPUT(bias_silu_backward, silu_slope)
BACKWARD_OF_INPUT(bias_gelu_backward, gelu_slope)
