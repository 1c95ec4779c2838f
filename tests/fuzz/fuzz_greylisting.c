/* The time that a next hop's reply names: any bytes, at most an hour. */
#include "schedule/schedule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    INVARIANT(schedule_named_delay_us(bytes_of(data, count)) <= 3600 * US_PER_S);
    return 0;
}
