/* Plants in the evidence, each of which has to be noticed by its oracle: see oracles.c. */
#ifndef TESTS_SIM_ORACLES_H
#define TESTS_SIM_ORACLES_H

#include "base/base.h"

enum plant {
    PLANT_NONE = 0,
#define PLANT(name, oracle, words, what) PLANT_##name,
#include "oracles.def"
#undef PLANT
};
extern enum plant planted; /* of this process; none as a rule */

/* True the first time of all, where that one is planted. */
MUST_USE bool plant_once(enum plant plant);

/* All of them, or that one; the exit code. */
MUST_USE int oracles_prove(const char *only);

#endif
