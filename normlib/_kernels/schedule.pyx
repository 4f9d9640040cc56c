"""How a plan becomes tasks: which steps, in which portions, with which scratch memory. Needs no GIL.

Results do not depend on the number of threads: weight gradients are summed over parts that the shape alone decides."""

from libc.stdlib cimport calloc, free, malloc
from normlib._kernels.header cimport BESIDE, OF_DADD, OF_DGATE, OF_DSUM, OF_DY, OF_GATE, OF_RESIDUAL, OF_SUM, OF_WHERE, OUTPUTS, VIEWS
from normlib._kernels.machine cimport machine
from normlib._kernels.parallel cimport parallel_for
from normlib._kernels.plan cimport (
    ABREAST, BLOCK, CHUNK, LANES, LINE, FEATURE_COLUMNS, FEATURE_ROWS, CHANNEL_ROWS, F64, PARTS, SAMPLE_PARTS, SETTLED, WATCH_BYTES, WIDE,
    Plan, Run, View, Watch, alone, alone_row, few_rows, line_of, round_up, size_of, working_size, y_bytes,
    FEATURE_ROW, FEATURE_ROWS_FORWARD, FEATURE_ROWS_BACKWARD, FEATURE_ROWS_PARTS, FEATURE_COLUMNS_FORWARD,
    FEATURE_COLUMNS_BACKWARD, CHANNEL_ROWS_FORWARD, CHANNEL_ROWS_BACKWARD, CHANNEL_COLUMNS_SUM, CHANNEL_COLUMNS_FIRST, CHANNEL_COLUMNS_MOMENTS,
    CHANNEL_COLUMNS_STATISTICS, CHANNEL_COLUMNS_GIVEN, CHANNEL_COLUMNS_FORWARD, CHANNEL_COLUMNS_GRADIENTS,
    CHANNEL_COLUMNS_MEANS, CHANNEL_COLUMNS_PARTS, CHANNEL_COLUMNS_BACKWARD, ADD_PARTS, ROOTS, MAP,
)

cdef enum:
    RUN_BYTES = 1 << 10         # of memory traffic that take as long as what a row or a run takes beside its elements
    STRIP_BYTES = 1 << 19       # of a strip of columns whose sums go into weight gradients: on every machine, for it decides their bits
    MOST_STRIP_BYTES = 1 << 22  # of any other: a thread keeps a copy
    SUMS = 512                  # positions of channel columns that a task sums, at most
    TILE = 1 << 17              # elements that are worth a task of their own
    MAP_BYTES = 1 << 28         # new results from this size on have their pages mapped in tasks of their own
    TABLES = 6                  # tables a sample of channel columns


cdef inline Py_ssize_t parts_of(Py_ssize_t n, Py_ssize_t portion) noexcept nogil:
    return (n + portion - 1) // portion


cdef inline bint dense_runs(const Plan* p) noexcept nogil:
    """Whether the elements of y that are neighbours in a run lie side by side."""
    if p.form == FEATURE_ROWS or p.form == CHANNEL_ROWS:
        return p.ys.position == 1 or p.length == 1
    return p.ys.channel == 1 or p.width == 1


cdef inline bint in_place(const Plan* p) noexcept nogil:
    """Whether y is an array that is read: then its lines are in cache when they are written."""
    return p.y == p.x or p.y == p.dy or p.y == p.companion[OF_RESIDUAL].data


cdef inline Py_ssize_t arrays_of(const Plan* p, bint backward) noexcept nogil:
    """How many arrays of the size of x the pass reads and writes."""
    cdef Py_ssize_t view, many = 3 if backward and (p.weight_grads or not p.given) else 2
    for view in range(VIEWS if p.fused else 0):
        many += p.companion[view].data != NULL
    return many


cdef inline Py_ssize_t strip_of(int threads) noexcept nogil:
    """Bytes of a strip of columns whose bits do not depend on it: as wide as the LLC has room for, since its pieces are longer then."""
    return min(<Py_ssize_t>MOST_STRIP_BYTES, max(machine.l2 // 2, machine.llc // (4 * max(2, threads))))


cdef void segments_as_samples(Plan* p) noexcept nogil:
    """Element-wise work alone: segment by segment, as they lie in memory."""
    cdef int view
    p.samples, p.segments = p.segments, 1
    p.xs.sample, p.ys.sample, p.ds.sample = p.xs.segment, p.ys.segment, p.ds.segment
    for view in range(VIEWS):
        p.companion[view].span.sample = p.companion[view].span.segment
    p.shared = True


cdef void pull_back(Plan* p, Plan* before, Plan* first) noexcept nogil:
    """The pass that writes the gradient that reaches the norm, to dadd, else to dx, and dy is taken from there; what else an epilogue
    reads is read by it, and dsum and a mask by the pass itself. It too takes what a gate before the norm needs, whose product `first`
    writes to dgate, where that is read by any."""
    cdef int view
    cdef View gate = p.companion[OF_GATE], dgate = p.companion[OF_DGATE], x = dgate
    if p.gate_first:
        x.data, x.span = <char*>p.x, p.xs
        p.companion[OF_GATE].data = p.companion[OF_DGATE].data = NULL
        if p.activation or p.weight_grads or not p.given:
            product(p, first, &gate, &dgate)
    before[0] = p[0]
    p.fused = p.gate_first or p.companion[OF_DSUM].data != NULL or p.companion[OF_WHERE].data != NULL
    for view in range(VIEWS):
        if view != OF_DSUM and view != OF_WHERE:
            p.companion[view].data = NULL
    if p.gate_first:
        p.companion[OF_GATE], p.companion[OF_DGATE], p.companion[OF_DY] = gate, dgate, x
    if (not p.activation and before.companion[OF_DADD].data == NULL and before.companion[OF_GATE].data == NULL
            and before.companion[OF_WHERE].data == NULL):
        return
    before.companion[OF_DSUM].data = NULL
    before.given = before.upstream = True
    if before.companion[OF_DADD].data != NULL:
        before.y, before.ys = before.companion[OF_DADD].data, before.companion[OF_DADD].span
    before.streaming = False
    before.companion[OF_DADD].data = NULL
    p.streaming &= before.y != p.y      # what was just written is in cache
    p.dy, p.ds = before.y, before.ys
    p.before = before


cdef void product(Plan* p, Plan* before, const View* gate, const View* to) noexcept nogil:
    """The pass that writes x times what the gate lets through, and x is taken from there."""
    before[0] = p[0]
    before.companion[OF_GATE] = gate[0]
    before.y, before.ys, before.y_dtype = to.data, to.span, p.dtype
    p.x, p.xs = before.y, before.ys
    p.before = before


cdef inline bint has_epilogue(const Plan* p) noexcept nogil:
    cdef int view
    for view in range(BESIDE, OUTPUTS):
        if p.companion[view].data != NULL:
            return True
    return p.activation != 0


cdef void begin_with(Plan* p, Plan* before) noexcept nogil:
    """The pass that writes x + residual, or that or x times what the gate lets through, and x is taken from there."""
    cdef View gate = p.companion[OF_GATE], y
    if p.gate_first:
        y.data, y.span = p.y, p.ys
        p.companion[OF_GATE].data = NULL
        p.streaming &= p.form == FEATURE_ROWS   # else they go by way of y, and what was just written is in cache
        product(p, before, &gate, &y)
    elif p.companion[OF_RESIDUAL].data != NULL:
        gate.data = NULL
        product(p, before, &gate, &p.companion[OF_SUM])
    p.fused = has_epilogue(p)


cdef int execute(Run run, Plan* p, int threads) noexcept nogil:
    """Compute the pass; -1 where memory is short, and then no more than given statistics are written, or where a signal's handler
    has raised."""
    cdef Py_ssize_t traffic, worth
    cdef Watch watch
    cdef Plan before, first
    cdef bint backward = p.dy != NULL
    cdef Py_ssize_t working = working_size(p.dtype)
    cdef int failed = 0
    cdef void* ones = NULL
    traffic = (arrays_of(p, backward) - 1) * p.bytes + y_bytes(p)
    # 16 bits take as long as 32: the arithmetic is the same.
    worth = (2 if p.itemsize == 2 else 1) * traffic
    if p.form == FEATURE_ROWS or p.form == CHANNEL_ROWS:
        worth += p.samples * p.groups * p.channels * p.segments * RUN_BYTES
    if worth < 2 * machine.thread and not backward and p.form == FEATURE_ROWS:
        # One task. A single row may take 50 ns: it is not made to wait for the divisions below.
        if alone_row(p):
            run(FEATURE_ROW, p, 0)
            return 0
        p.parameters = p.segments * p.length
        p.batch = p.samples * p.groups
        begin_with(p, &before)
        run(FEATURE_ROWS_FORWARD, p, 0)
        p.before = NULL
        return 0
    if p.given and not backward and p.var != NULL:      # else it is rstd that is given
        run(ROOTS, p, 0)
    p.parameters = p.segments * p.length if p.form == FEATURE_ROWS or p.form == FEATURE_COLUMNS else p.groups * p.channels
    if p.form == CHANNEL_ROWS and p.given and not p.weight_grads and p.samples == 1 and p.segments > 1:
        segments_as_samples(p)
    threads = <int>max(1, min(<Py_ssize_t>threads, worth // machine.thread))
    p.l1_bytes, p.lot_bytes = machine.l1, machine.l2 // 4
    p.strip_bytes = STRIP_BYTES if backward and p.weight_grads else strip_of(threads)
    p.level = 2 + (traffic >= machine.beyond_l2) + (traffic >= machine.beyond_llc)
    p.streaming = traffic >= machine.stream and dense_runs(p) and not in_place(p)
    if backward and p.fused:
        pull_back(p, &before, &first)
    else:
        begin_with(p, &before)
    partition(p, backward, threads)
    if p.interruptible and p.bytes >= WATCH_BYTES:
        watch.due = watch.stopped = 0
        p.watch = &watch
    if backward and p.weight_grads:
        failed = new_gradients(p, working)
    if backward and p.form == FEATURE_ROWS and p.weight == NULL:
        ones = new_ones(p)
        p.weight = <const char*>ones
        failed = failed or ones == NULL
    if failed == 0:
        failed = walk(run, p, backward, working, threads)
    if failed == 0 and backward and p.weight_grads and p.parts > 1:
        parallel_for(run, FEATURE_ROWS_PARTS if few_rows(p) else ADD_PARTS, p, parts_of(p.parameters, BLOCK), threads)
    failed = -1 if failed or stopped(p) else 0
    p.watch, p.before = NULL, NULL
    if ones != NULL:
        free(ones)
        p.weight = NULL
    return failed


cdef void* new_ones(const Plan* p) noexcept nogil:
    """A weight for gradients that have none: so there are half as many loops. NULL where memory is short."""
    cdef void* ones = malloc(p.parameters * working_size(p.dtype))
    cdef Py_ssize_t i
    for i in range(p.parameters if ones != NULL else 0):
        if p.dtype == F64:
            (<double*>ones)[i] = 1
        else:
            (<float*>ones)[i] = 1
    return ones


cdef int walk(Run run, const Plan* p, bint backward, Py_ssize_t working, int threads) noexcept nogil:
    """The steps of the loops; -1 where memory is short."""
    cdef Py_ssize_t tasks = parts_of(p.samples * p.groups, p.batch)
    if p.watch != NULL and p.fresh != NULL and y_bytes(p) >= MAP_BYTES and (p.form == FEATURE_COLUMNS or p.segments > 1):
        # One task would touch them all.
        parallel_for(run, MAP, p, parts_of(y_bytes(p), WATCH_BYTES), threads)
    if p.form == FEATURE_ROWS:
        parallel_for(run, FEATURE_ROWS_BACKWARD if backward else FEATURE_ROWS_FORWARD, p, p.parts if backward else tasks, threads)
    elif p.form == FEATURE_COLUMNS:
        tasks = p.samples * (parts_of(p.width, p.strip) + p.streaming)
        parallel_for(run, FEATURE_COLUMNS_BACKWARD if backward else FEATURE_COLUMNS_FORWARD, p, p.parts if backward else tasks, threads)
    elif p.form == CHANNEL_ROWS:
        if backward:
            tasks = p.parts * parts_of(p.groups, p.strip)
        parallel_for(run, CHANNEL_ROWS_BACKWARD if backward else CHANNEL_ROWS_FORWARD, p, tasks, threads)
    else:
        return channel_columns(run, p, backward, working, threads)
    return 0


cdef int new_gradients(Plan* p, Py_ssize_t working) noexcept nogil:
    """Zeros for the sums of the weight gradients; -1 where memory is short."""
    cdef Py_ssize_t sums = (1 if few_rows(p) else p.parts) * p.parameters
    cdef Py_ssize_t terms = p.batch // LANES if p.form == FEATURE_ROWS else p.batch     # of a sum in float64
    if p.form == FEATURE_ROWS:
        p.memory = calloc(2 * p.parts * p.parameters * working + LINE, 1)
        p.scratch = line_of(p.memory)
        if p.memory == NULL:
            return -1
    if alone(p):
        if p.dtype == F64:
            p.dweight = <double*>p.scratch
            p.dbias = p.dweight + p.parameters
        return 0
    p.dweight = <double*>calloc(sums, sizeof(double))
    p.dbias = <double*>calloc(sums, sizeof(double)) if p.centered else NULL
    if p.dtype == F64 and terms > LANES:
        p.lost = <double*>calloc(2 * sums, sizeof(double))
        if p.lost == NULL:
            return -1
    return -1 if p.dweight == NULL or (p.centered and p.dbias == NULL) else 0


cdef void free_gradients(Plan* p) noexcept nogil:
    """Once they have been handed out."""
    if not alone(p):
        free(p.dweight)
        free(p.dbias)
        free(p.lost)
    free(p.memory)


cdef inline bint stopped(const Plan* p) noexcept nogil:
    return p.watch != NULL and p.watch.stopped


cdef void partition(Plan* p, bint backward, int threads) noexcept nogil:
    cdef Py_ssize_t rows = p.samples * p.groups
    cdef Py_ssize_t least = max(1 + p.bytes // WATCH_BYTES, <Py_ssize_t>(4 * threads if threads > 1 else 1))     # tasks
    if not backward and (p.form == FEATURE_ROWS or p.form == CHANNEL_ROWS):
        p.batch = parts_of(rows, least)
    elif p.form == FEATURE_ROWS:
        p.batch = max(<Py_ssize_t>16, parts_of(rows, PARTS))
        p.parts = parts_of(rows, p.batch)
    elif p.form == FEATURE_COLUMNS:
        p.strip = WIDE
        while p.strip > 2 * LANES and (2 if backward else 1) * p.length * p.strip * p.itemsize > p.strip_bytes:
            p.strip //= 2
        rows = p.samples * parts_of(p.width, p.strip)
        p.batch = parts_of(rows, PARTS)
        p.parts = parts_of(rows, p.batch)
    else:
        p.batch = parts_of(p.samples, SAMPLE_PARTS)
        p.parts = parts_of(p.samples, p.batch)
        p.strip = parts_of(p.groups, parts_of(least, p.parts))


cdef inline Py_ssize_t abreast(Py_ssize_t width, Py_ssize_t length) noexcept nogil:
    """The fewest positions that fill whole lanes; 1 where they would be more than ABREAST columns, or the tables longer than is
    worth while for so few positions."""
    cdef Py_ssize_t many = 1
    while many * width % LANES != 0:
        many *= 2
    return many if many * width <= ABREAST and 16 * many <= length else 1


cdef Py_ssize_t cut(Plan* p, Py_ssize_t blocks, Py_ssize_t multiple, int threads) noexcept nogil:
    """Each sample of channel columns in so many blocks of positions, or fewer, of a multiple each; the number of tasks. They take
    whole positions, which lie together in memory (threads that write beside each other take lines from each other), unless
    that leaves a thread without work."""
    p.block = round_up(parts_of(p.length, blocks), multiple)
    p.blocks = parts_of(p.length, p.block)
    p.strip = p.width
    while p.strip > WIDE and p.samples * p.blocks * parts_of(p.width, p.strip) < threads:
        p.strip = round_up(p.strip // 2, LANES)
    return p.samples * p.blocks * parts_of(p.width, p.strip)


cdef inline Py_ssize_t cut_sums(Plan* p, int threads) noexcept nogil:
    """For sums: the length alone decides, for that fixes their order, and so the bits. An even number where they are few, so that
    two threads have as much to do."""
    cdef Py_ssize_t blocks = parts_of(p.length, SUMS)
    return cut(p, round_up(blocks, 2) if blocks > 1 else 1, CHUNK, threads)


cdef inline Py_ssize_t cut_evenly(Plan* p, int threads) noexcept nogil:
    """For element-wise work: as much for each thread. The sums, which lie by blocks of `cut_sums`, are no longer of use."""
    cdef Py_ssize_t blocks = parts_of(p.length, max(<Py_ssize_t>SUMS, TILE // p.width))
    return cut(p, round_up(blocks, threads) if p.samples % threads else blocks, 1, threads)


cdef void go_to(Plan* p, const Plan* whole, Py_ssize_t first, Py_ssize_t samples) noexcept nogil:
    """Some samples of all, from the first on."""
    cdef int view
    p.first, p.samples = first, samples
    p.x = whole.x + first * p.xs.sample * p.itemsize
    p.y = whole.y + first * p.ys.sample * size_of(p.y_dtype)
    if whole.dy != NULL:
        p.dy = whole.dy + first * p.ds.sample * p.itemsize
    p.mean = whole.mean + first * p.groups if whole.mean != NULL else NULL
    p.var = whole.var + first * p.groups if whole.var != NULL else NULL
    p.rstd = whole.rstd + first * p.groups if whole.rstd != NULL else NULL
    p.inside = whole.inside + first * p.groups if whole.inside != NULL else NULL
    for view in range(VIEWS if p.fused else 0):
        if whole.companion[view].data != NULL:
            p.companion[view].data = whole.companion[view].data + first * p.companion[view].span.sample * size_of(p.companion[view].dtype)


cdef void columns_before(Run run, const Plan* p, const Plan* whole, int threads) noexcept nogil:
    """`before` of a chunk, with the tables of its pass."""
    cdef Plan before = whole[0]
    if whole.before != NULL:
        columns_before(run, p, whole.before, threads)
    go_to(&before, whole, p.first, p.samples)
    before.table, before.state, before.abreast, before.padded = p.table, p.state, p.abreast, p.padded
    if before.upstream:
        parallel_for(run, CHANNEL_COLUMNS_GIVEN, &before, p.samples, threads)
        parallel_for(run, CHANNEL_COLUMNS_FORWARD, &before, cut_evenly(&before, threads), threads)
    else:
        parallel_for(run, CHANNEL_COLUMNS_SUM, &before, cut_evenly(&before, threads), threads)


cdef int channel_columns(Run run, const Plan* whole, bint backward, Py_ssize_t working, int threads) noexcept nogil:
    """The samples in chunks that stay in cache from one step to the next."""
    cdef Plan p = whole[0]
    cdef Py_ssize_t first, sample, tiles
    # One thread has them in L2; what several write goes to the caches of others, and each step of a chunk is handed over anew.
    cdef Py_ssize_t bytes = machine.l2 // 2 if threads == 1 else machine.llc // 8
    cdef Py_ssize_t chunk = max(<Py_ssize_t>1, bytes // (p.length * p.width * p.itemsize))
    cdef bint open
    cdef void* memory
    chunk = min(chunk, p.samples)
    p.abreast = abreast(p.width, p.length) if p.companion[OF_WHERE].data == NULL else 1
    # Lanes may begin at any channel of the last positions, and end in the last of the `rest` of one more (Cut).
    p.padded = (2 * p.abreast * p.width if p.abreast > 1 else round_up(p.width, LANES)) + LANES
    cut_sums(&p, threads)
    p.sums = <double*>malloc(chunk * p.blocks * 2 * p.width * sizeof(double))
    memory = calloc(chunk * TABLES * p.padded * working + LINE, 1)
    p.table = line_of(memory)
    p.state = <int*>malloc(chunk * sizeof(int))
    if p.sums == NULL or memory == NULL or p.state == NULL:
        free(p.sums)
        free(memory)
        free(p.state)
        return -1
    for first from 0 <= first < whole.samples by chunk:
        if stopped(&p):
            break
        go_to(&p, whole, first, min(chunk, whole.samples - first))
        tiles = cut_sums(&p, threads)
        if whole.before != NULL:
            columns_before(run, &p, whole.before, threads)
        if backward:
            parallel_for(run, CHANNEL_COLUMNS_GIVEN, &p, p.samples, threads)
            if p.weight_grads or not p.given:
                parallel_for(run, CHANNEL_COLUMNS_GRADIENTS, &p, tiles, threads)
                parallel_for(run, CHANNEL_COLUMNS_MEANS, &p, p.samples, threads)
            if p.weight_grads:
                parallel_for(run, CHANNEL_COLUMNS_PARTS, &p, parts_of(p.width, BLOCK), threads)
            parallel_for(run, CHANNEL_COLUMNS_BACKWARD, &p, cut_evenly(&p, threads), threads)
            continue
        if p.given:
            parallel_for(run, CHANNEL_COLUMNS_GIVEN, &p, p.samples, threads)
        else:
            parallel_for(run, CHANNEL_COLUMNS_FIRST, &p, p.samples, threads)
            open = True
            while open and not stopped(&p):
                parallel_for(run, CHANNEL_COLUMNS_MOMENTS, &p, tiles, threads)
                parallel_for(run, CHANNEL_COLUMNS_STATISTICS, &p, p.samples, threads)
                open = False
                for sample in range(p.samples):
                    open |= p.state[sample] > SETTLED
        if whole.y != NULL:     # else the statistics are all that is wanted
            parallel_for(run, CHANNEL_COLUMNS_FORWARD, &p, cut_evenly(&p, threads), threads)
    free(p.sums)
    free(memory)
    free(p.state)
    return 0
