/* A fault on our side that would refuse mail: the check of causes.def, applied to such a row. */
#include "verdict/verdict.h"
#define CAUSE(symbol, name, class, side, code, enhanced, text, meaning, advice)                    \
    _Static_assert(!(SIDE_##side == SIDE_OURS && VERDICT_##class == VERDICT_REFUSE),               \
                   "a fault on our side must not refuse: " name);
CAUSE(SPOOL_BROKEN, "spool.broken", REFUSE, OURS, 54, "3.0", "", "", "")
