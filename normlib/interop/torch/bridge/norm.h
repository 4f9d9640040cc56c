/* A norm of tensors as a call of normlib.h: what is taken, where the results go, and in which words the axes are told.

   Nothing here raises for what a caller gave: what the kernels do not take comes back as false, and the caller goes its old way. */

#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <normlib.h>

namespace normlib_torch {

using at::Tensor;

enum Role { X, WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, RESIDUAL, ADD, GATE, WHERE, ROLES };
using Tensors = std::array<Tensor, ROLES>;

/* A norm and its options. */
struct Norm {
    int op = NORMLIB_LAYER_NORM;    /* the forward one; the backward one is the next */
    uint64_t axes = 0;              /* feature norms: bit i for axis i */
    int channel = 1;                /* channel norms */
    int64_t groups = 0;
    int threads = 0;                /* at most so many; 0: what is set for the process */
    bool mode = true;               /* whether the statistics are those of x */
    double momentum = 0, eps = 0;
    int activation = NORMLIB_NO_ACTIVATION, gate_activation = NORMLIB_NO_ACTIVATION;
    double slope = 0.01;
    bool gate_first = false, round_first = false;
    bool offset = false;            /* the weight is 1 more than the one given, in float32 where that has 16 bits */
    bool contiguous = false;        /* torch's operator gives contiguous results, whatever x is like */
    at::ScalarType out = at::ScalarType::Undefined;     /* of y; undefined: that of x */

    bool feature() const { return op <= NORMLIB_RMS_NORM; }
    bool centered() const { return op != NORMLIB_RMS_NORM; }
    bool moving() const { return op == NORMLIB_BATCH_NORM || op == NORMLIB_INSTANCE_NORM; }
};

struct Result {
    Tensor y, sum, mean, rstd;
};

struct Gradients {
    Tensor dx, dweight, dbias, dadd, dgate;
};

constexpr int MOST_AXES = 8;

inline int dtype_of(const Tensor &t)
{
    switch (t.scalar_type()) {
    case at::kDouble: return NORMLIB_F64;
    case at::kFloat: return NORMLIB_F32;
    case at::kHalf: return NORMLIB_F16;
    case at::kBFloat16: return NORMLIB_BF16;
    case at::kBool: return NORMLIB_BOOL;
    default: return -1;
    }
}

inline bool is_plain(const Tensor &t)
{
    constexpr c10::DispatchKeySet lazy{c10::DispatchKey::Negative, c10::DispatchKey::Conjugate, c10::DispatchKey::ZeroTensor};
    return t.is_cpu() && t.layout() == at::kStrided && !t.key_set().has_any(lazy);
}

/* Whether the axes lie in memory in the order of a format; gaps may stay. */
inline bool in_order(const Tensor &t, at::MemoryFormat format)
{
    int64_t least = 0;
    const int64_t last = t.dim() - 1;
    const bool channels_last = format != at::MemoryFormat::Contiguous;
    for (int64_t i = last; i >= 0; --i) {
        const int64_t axis = !channels_last ? i : i == last ? 1 : i ? i + 1 : 0;
        if (t.size(axis) > 1) {
            if (t.stride(axis) <= least)
                return false;
            least = t.stride(axis);
        }
    }
    return true;
}

/* Copy t, if it is given, where its axes have another order than that of a format; whether it is dense without. */
inline bool arrange(Tensor &t, at::MemoryFormat format)
{
    if (!t.defined() || t.is_contiguous(format))
        return true;
    if (in_order(t, format))
        return false;
    t = t.contiguous(format);
    return true;
}

/* The shape of mean and rstd as torch has it. */
inline c10::SmallVector<int64_t, MOST_AXES> statistics_shape(const Norm &norm, const Tensor &x, size_t trailing = 0)
{
    if (norm.op == NORMLIB_BATCH_NORM)
        return {x.size(norm.channel)};
    if (!norm.feature())
        return {x.size(norm.channel == 0), norm.op == NORMLIB_GROUP_NORM ? norm.groups : x.size(norm.channel)};
    c10::SmallVector<int64_t, MOST_AXES> shape;
    for (int64_t i = 0; i < x.dim(); ++i)
        if (!(norm.axes >> i & 1))
            shape.push_back(x.size(i));
    shape.append(trailing, 1);
    return shape;
}

/* The axes of x as the kernels are told them. Where all that has x's shape is dense in one format they are few: rows, or samples,
   channels and positions. Otherwise they are those of x, and each array has its strides. */
class Frame {
public:
    Frame(const Norm &norm, const Tensors &given, at::MemoryFormat format, bool dense)
    {
        const auto sizes = given[X].sizes();
        const int n = static_cast<int>(sizes.size());
        call_axis = norm.feature() ? -1 : norm.channel;
        const int own = norm.feature() ? __builtin_popcountll(norm.axes) : 1;
        for (const int role : {WEIGHT, BIAS})   /* one with leading axes needs those of x, and one of a wrong shape is to be seen */
            dense = dense && (!given[role].defined() || (norm.feature() ? given[role].sizes() == sizes.slice(n - own) : given[role].dim() == 1));
        dense_ = dense && format == at::MemoryFormat::Contiguous;
        if (dense_ && norm.feature() && trailing(norm.axes, n)) {
            rows_ = true;
            shape = {1, 1};
            for (int i = 0; i < n; ++i)
                shape[norm.axes >> i & 1] *= sizes[i];
            statistics = {shape[0]};
        } else if (dense && !norm.feature() && norm.channel == 1) {
            dense_ = true;
            ptrdiff_t positions = 1;
            for (int i = 2; i < n; ++i)
                positions *= sizes[i];
            shape = {sizes[0], sizes[1], positions};
            if (format != at::MemoryFormat::Contiguous) {
                std::swap(shape[1], shape[2]);
                call_axis = 2;
            }
        } else {
            shape.assign(sizes.begin(), sizes.end());
            axes = norm.feature() ? norm.axes : 0;
        }
        if (rows_)
            return;
        const auto kept = statistics_shape(norm, given[X]);
        statistics.assign(kept.begin(), kept.end());
    }

    const normlib_array *of_x(const Tensor &t)
    {
        if (!t.defined())
            return nullptr;
        return add(t.data_ptr(), dtype_of(t), shape.size(), shape.data(), dense_ ? nullptr : strides(t));
    }

    /* A mask: any strides, 0 where it is broadcast. */
    const normlib_array *of_mask(const Tensor &t)
    {
        return t.defined() ? add(t.data_ptr(), NORMLIB_BOOL, shape.size(), shape.data(), strides(t)) : nullptr;
    }

    const normlib_array *of_statistics(const Tensor &t)
    {
        return t.defined() ? add(t.data_ptr(), dtype_of(t), statistics.size(), statistics.data(), nullptr) : nullptr;
    }

    const normlib_array *of_statistics(double *data)
    {
        return data ? add(data, NORMLIB_F64, statistics.size(), statistics.data(), nullptr) : nullptr;
    }

    const normlib_array *of_parameter(const Tensor &t)
    {
        if (!t.defined())
            return nullptr;
        ptrdiff_t *own = room_[used_][0];
        if (rows_) {
            *own = t.numel();
            return add(t.data_ptr(), dtype_of(t), 1, own, nullptr);
        }
        std::copy(t.sizes().begin(), t.sizes().end(), own);
        return add(t.data_ptr(), dtype_of(t), t.dim(), own, nullptr);
    }

    int call_axis;
    uint64_t axes = 0;
    c10::SmallVector<ptrdiff_t, MOST_AXES> shape, statistics;

private:
    static constexpr int MOST_ARRAYS = 16;

    static bool trailing(uint64_t axes, int n)
    {
        const uint64_t low = axes & (~axes + 1);
        return axes && axes + low == uint64_t(1) << n;
    }

    const ptrdiff_t *strides(const Tensor &t)
    {
        ptrdiff_t *own = room_[used_][1];
        for (int64_t i = 0; i < t.dim(); ++i)
            own[i] = t.stride(i) * t.element_size();
        return own;
    }

    const normlib_array *add(void *data, int dtype, int64_t ndim, const ptrdiff_t *sizes, const ptrdiff_t *strides)
    {
        auto &a = arrays_[used_++];
        a = {data, dtype, static_cast<int>(ndim), sizes, strides};
        return &a;
    }

    bool dense_, rows_ = false;     /* no array has gaps; the axes are those of rows */
    int used_ = 0;
    normlib_array arrays_[MOST_ARRAYS];
    ptrdiff_t room_[MOST_ARRAYS][2][MOST_AXES];     /* sizes and strides */
};

/* As many threads as torch takes, and as normlib takes: whoever says one means it. */
inline int threads(const Norm &norm)
{
    return at::in_parallel_region() ? 1 : std::min(at::get_num_threads(), norm.threads ? norm.threads : normlib->get_num_threads());
}

inline normlib_call call_of(const Norm &norm, const Frame &frame, bool backward)
{
    normlib_call c{};
    c.size = sizeof(normlib_call);
    c.op = norm.op + backward;
    c.threads = threads(norm);
    c.axis = frame.call_axis;
    c.axes = frame.axes;
    c.mode = norm.mode;
    c.num_groups = norm.groups;
    c.momentum = norm.momentum;
    c.eps = norm.eps;
    c.activation = norm.activation;
    c.negative_slope = norm.slope;
    c.gate_activation = norm.gate_activation;
    c.gate_first = norm.gate_first;
    c.round_first = norm.round_first;
    return c;
}

inline at::MemoryFormat format_of(const Norm &norm, const Tensor &like)
{
    return norm.contiguous ? at::MemoryFormat::Contiguous : like.suggest_memory_format();
}

inline bool takes_parameter(const Tensor &t, const Tensor &x)
{
    return !t.defined() || (is_plain(t) && t.is_contiguous() && (t.scalar_type() == x.scalar_type() ||
                            (t.scalar_type() == at::kFloat && x.element_size() == 2)));
}

inline bool takes(const Norm &norm, const Tensors &given)
{
    const Tensor &x = given[X];
    if (!is_plain(x) || x.dim() < (norm.feature() ? 1 : 2) || x.dim() > MOST_AXES || x.numel() == 0 || static_cast<unsigned>(dtype_of(x)) > NORMLIB_BF16)
        return false;
    if (!takes_parameter(given[WEIGHT], x) || !takes_parameter(given[BIAS], x))
        return false;
    for (const int role : {RUNNING_MEAN, RUNNING_VAR})
        if (given[role].defined() && !(is_plain(given[role]) && given[role].is_contiguous() && static_cast<unsigned>(dtype_of(given[role])) <= NORMLIB_BF16))
            return false;
    for (const int role : {RESIDUAL, ADD, GATE})
        if (given[role].defined() && !(is_plain(given[role]) && given[role].scalar_type() == x.scalar_type() && given[role].sizes() == x.sizes()))
            return false;
    const Tensor &where = given[WHERE];
    return !where.defined() || (is_plain(where) && where.scalar_type() == at::kBool);
}

/* The memory of large results, which normlib keeps for the next: the pages of a new one cost more than its numbers. */
class Kept : public c10::Allocator {
public:
    using Take = void *(*)(void *, size_t);
    using Give = void (*)(void *, void *, size_t);

    static Kept &of_process()
    {
        static Kept kept;
        return kept;
    }

    void use(Take take, Give give, size_t least)
    {
        take_ = take;
        give_ = give;
        least_ = least;
    }

    bool pays(size_t bytes) const { return least_ && bytes >= least_; }

    c10::DataPtr allocate(size_t bytes) override
    {
        void *data = bytes ? take_(nullptr, bytes) : nullptr;
        TORCH_CHECK(data || !bytes, "normlib: no memory for a result of ", bytes, " bytes");
        return {data, data, free, at::Device(at::kCPU)};
    }

    c10::DeleterFnPtr raw_deleter() const override { return free; }
    void copy_data(void *to, const void *from, size_t bytes) const override { default_copy_data(to, from, bytes); }

private:
    static void free(void *data) { of_process().give_(nullptr, data, 0); }

    Take take_ = nullptr;
    Give give_ = nullptr;
    size_t least_ = 0;
};

inline Tensor empty(at::IntArrayRef shape, at::ScalarType dtype, at::MemoryFormat format = at::MemoryFormat::Contiguous)
{
    if (Kept::of_process().pays(c10::multiply_integers(shape) * c10::elementSize(dtype)))
        return at::detail::empty_generic(shape, &Kept::of_process(), c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, format);
    return at::detail::empty_cpu(shape, dtype, false, format);
}

/* A statistic as the kernels write it, in float64, and as it is kept, in float64 or float32. */
class Statistic {
public:
    Statistic(Tensor &kept, at::IntArrayRef shape, at::ScalarType dtype) : kept_(kept)
    {
        kept = empty(shape, dtype);
        if (dtype != at::kDouble)
            wide_.resize(kept.numel());
    }

    double *data() { return wide_.empty() ? kept_.mutable_data_ptr<double>() : wide_.data(); }

    void keep()
    {
        if (!wide_.empty())
            std::copy(wide_.begin(), wide_.end(), kept_.mutable_data_ptr<float>());
    }

private:
    Tensor &kept_;
    c10::SmallVector<double, 32> wide_;
};

/* The statistics that are wanted: their dtype, none where it is undefined, and how many axes of one element follow the kept ones. */
struct Wanted {
    at::ScalarType dtype = at::ScalarType::Undefined;
    size_t trailing = 0;
};

inline bool compute(const Norm &norm, Tensors &given, const Wanted &wanted, Result &result)
{
    at::AutoDispatchBelowADInplaceOrView below;
    if (!takes(norm, given))
        return false;
    const auto format = format_of(norm, given[X]);
    bool dense = !given[WHERE].defined();
    for (const int role : {X, RESIDUAL, ADD, GATE})
        dense = arrange(given[role], format) && dense;
    const Tensor &x = given[X];
    if (given[WHERE].defined() && given[WHERE].sizes() != x.sizes())
        given[WHERE] = given[WHERE].expand(x.sizes());
    result.y = empty(x.sizes(), norm.out == at::ScalarType::Undefined ? x.scalar_type() : norm.out, format);
    if (given[RESIDUAL].defined())
        result.sum = empty(x.sizes(), x.scalar_type(), format);
    Frame frame(norm, given, format, dense);
    std::optional<Statistic> mean, rstd;
    if (wanted.dtype != at::ScalarType::Undefined) {
        const auto shape = statistics_shape(norm, x, wanted.trailing);
        rstd.emplace(result.rstd, shape, wanted.dtype);
        if (norm.centered())
            mean.emplace(result.mean, shape, wanted.dtype);
    }
    normlib_call c = call_of(norm, frame, false);
    c.x = frame.of_x(x);
    c.y = frame.of_x(result.y);
    c.residual = frame.of_x(given[RESIDUAL]);
    c.sum = frame.of_x(result.sum);
    c.add = frame.of_x(given[ADD]);
    c.gate = frame.of_x(given[GATE]);
    c.where = frame.of_mask(given[WHERE]);
    c.weight = frame.of_parameter(given[WEIGHT]);
    c.bias = frame.of_parameter(given[BIAS]);
    c.running_mean = frame.of_parameter(given[RUNNING_MEAN]);
    c.running_var = frame.of_parameter(given[RUNNING_VAR]);
    c.mean = frame.of_statistics(mean ? mean->data() : nullptr);
    c.rstd = frame.of_statistics(rstd ? rstd->data() : nullptr);
    if (normlib->call(&c) != NORMLIB_OK)
        return false;
    for (auto *statistic : {&mean, &rstd})
        if (*statistic)
            (*statistic)->keep();
    return true;
}

/* given: x, or the sum with a residual; weight; of bias, add, gate and where what a fused norm is given again. */
inline bool compute_backward(const Norm &norm, Tensor dy, Tensors &given, const Tensor &mean, const Tensor &rstd, Tensor dsum,
                             const std::array<bool, 2> &parameters, Gradients &result)
{
    at::AutoDispatchBelowADInplaceOrView below;
    if (!is_plain(dy) || dy.sizes() != given[X].sizes() || dy.scalar_type() != given[X].scalar_type() || !takes(norm, given) ||
        (dsum.defined() && !(is_plain(dsum) && dsum.scalar_type() == dy.scalar_type())))
        return false;
    const auto format = format_of(norm, norm.op == NORMLIB_RMS_NORM ? dy : given[X]);
    bool dense = !given[WHERE].defined();
    for (Tensor *t : {&dy, &dsum, &given[X], &given[ADD], &given[GATE]})
        dense = arrange(*t, format) && dense;
    const Tensor &x = given[X], &weight = given[WEIGHT];
    if (given[WHERE].defined() && given[WHERE].sizes() != x.sizes())
        given[WHERE] = given[WHERE].expand(x.sizes());
    result.dx = empty(x.sizes(), x.scalar_type(), format);
    if (given[ADD].defined())
        result.dadd = empty(x.sizes(), x.scalar_type(), format);
    if (given[GATE].defined())
        result.dgate = empty(x.sizes(), x.scalar_type(), format);
    Frame frame(norm, given, format, dense);
    c10::SmallVector<int64_t, MOST_AXES> size;
    if (weight.defined())
        size.assign(weight.sizes().begin(), weight.sizes().end());
    else if (!norm.feature())
        size = {x.size(norm.channel)};
    else
        for (int64_t i = 0; i < x.dim(); ++i)
            if (norm.axes >> i & 1)
                size.push_back(x.size(i));
    const auto dtype = (weight.defined() ? weight : x).scalar_type();
    if (parameters[0])
        result.dweight = empty(size, dtype);
    if (parameters[1] && norm.centered())
        result.dbias = empty(given[BIAS].defined() ? given[BIAS].sizes() : size, dtype);
    normlib_call c = call_of(norm, frame, true);
    c.dy = frame.of_x(dy);
    c.x = frame.of_x(x);
    c.dx = frame.of_x(result.dx);
    c.dsum = frame.of_x(dsum);
    c.add = frame.of_x(given[ADD]);
    c.dadd = frame.of_x(result.dadd);
    c.gate = frame.of_x(given[GATE]);
    c.dgate = frame.of_x(result.dgate);
    c.where = frame.of_mask(given[WHERE]);
    c.weight = frame.of_parameter(weight);
    c.bias = frame.of_parameter(given[BIAS]);
    c.mean = frame.of_statistics(mean);
    c.rstd = frame.of_statistics(rstd);
    c.dweight = frame.of_parameter(result.dweight);
    c.dbias = frame.of_parameter(result.dbias);
    return normlib->call(&c) == NORMLIB_OK;
}

}  // namespace normlib_torch
