/* What no single value can tell: names, pairs, duplicates. Sorts domains and routes. */
#ifndef CONFIG_CHECK_H
#define CONFIG_CHECK_H

#include "config/scan.h"

void config_check(struct config *config, struct scan *scan);
/* Order of names without regard to ASCII case. */
int name_compare(struct bytes a, struct bytes b);

#endif
