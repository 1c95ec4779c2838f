#include "base/units.h"

#include <string.h>
#include <time.h>

static void split_time(int64_t wall_us, struct tm *parts, long *fraction_us)
{
    time_t seconds = (time_t)(wall_us / 1000000);
    long fraction = (long)(wall_us % 1000000);

    if (fraction < 0) {
        fraction += 1000000;
        seconds--;
    }
    if (!gmtime_r(&seconds, parts))
        *parts = (struct tm){.tm_year = 70, .tm_mday = 1};
    *fraction_us = fraction;
}

char *time_print_rfc3339(int64_t wall_us, char *into, size_t room)
{
    struct tm parts;
    long fraction = 0;

    split_time(wall_us, &parts, &fraction);
    snprintf(into, room, "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ", parts.tm_year + 1900,
             parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, fraction);
    return into;
}

char *time_print_rfc5322(int64_t wall_us, char *into, size_t room)
{
    static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    struct tm parts;
    long fraction = 0;

    split_time(wall_us, &parts, &fraction);
    snprintf(into, room, "%s, %02d %s %04d %02d:%02d:%02d +0000", days[parts.tm_wday % 7],
             parts.tm_mday, months[parts.tm_mon % 12], parts.tm_year + 1900, parts.tm_hour,
             parts.tm_min, parts.tm_sec);
    return into;
}

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit DURATION_UNITS[] = {
    {"ms", US_PER_MS},      {"s", US_PER_S},         {"m", 60 * US_PER_S},
    {"h", 3600 * US_PER_S}, {"d", 86400 * US_PER_S},
};

static uint64_t duration_unit(struct bytes name)
{
    for (size_t i = 0; i < COUNT_OF(DURATION_UNITS); i++)
        if (bytes_equal_text(name, DURATION_UNITS[i].name))
            return DURATION_UNITS[i].factor;
    return 0;
}

/* Takes the run of bytes from the front of *rest for which `belongs` holds. */
static struct bytes take_run(struct bytes *rest, bool (*belongs)(uint8_t))
{
    size_t end = 0;

    while (end < rest->count && belongs(rest->at[end]))
        end++;
    const struct bytes run = bytes_slice(*rest, 0, end);
    *rest = bytes_skip(*rest, end);
    return run;
}

bool duration_parse(struct bytes text, uint64_t *duration_us)
{
    uint64_t sum = 0;

    if (bytes_equal_text(text, "0")) {
        *duration_us = 0;
        return true;
    }
    if (text.count == 0)
        return false;
    while (text.count > 0) {
        uint64_t number = 0;
        const struct bytes digits = take_run(&text, ascii_is_digit);
        const uint64_t factor = duration_unit(take_run(&text, ascii_is_alpha));

        if (!bytes_to_u64(digits, &number) || factor == 0 ||
            __builtin_mul_overflow(number, factor, &number) ||
            __builtin_add_overflow(sum, number, &sum))
            return false;
    }
    *duration_us = sum;
    return true;
}

char *duration_print(uint64_t duration_us, char *into, size_t room)
{
    const uint64_t seconds = duration_us / US_PER_S;

    if (seconds == 0)
        snprintf(into, room, "%llu ms", (unsigned long long)(duration_us / US_PER_MS));
    else if (seconds < 120)
        snprintf(into, room, "%llu s", (unsigned long long)seconds);
    else if (seconds < 3600)
        snprintf(into, room, "%llu min", (unsigned long long)(seconds / 60));
    else if (seconds < 2 * 86400)
        snprintf(into, room, "%llu h %llu min", (unsigned long long)(seconds / 3600),
                 (unsigned long long)(seconds / 60 % 60));
    else
        snprintf(into, room, "%llu d %llu h", (unsigned long long)(seconds / 86400),
                 (unsigned long long)(seconds / 3600 % 24));
    return into;
}

bool size_parse(struct bytes text, uint64_t *size_bytes)
{
    const struct bytes digits = take_run(&text, ascii_is_digit);
    uint64_t number = 0, factor = 1;

    if (bytes_equal_text_nocase(text, "k"))
        factor = KIB;
    else if (bytes_equal_text_nocase(text, "m"))
        factor = MIB;
    else if (bytes_equal_text_nocase(text, "g"))
        factor = 1024 * MIB;
    else if (text.count != 0)
        return false;
    return bytes_to_u64(digits, &number) && !__builtin_mul_overflow(number, factor, size_bytes);
}

static const char ID_ALPHABET[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
enum { ID_DIGITS = 13 };

char *id_print(uint64_t id, char *into, size_t room)
{
    char text[ID_DIGITS + 1] = {0};

    for (size_t i = ID_DIGITS; i-- > 0; id >>= 5)
        text[i] = ID_ALPHABET[id & 31];
    snprintf(into, room, "%s", text);
    return into;
}

bool id_parse(struct bytes text, uint64_t *id)
{
    uint64_t sum = 0;

    if (text.count != ID_DIGITS)
        return false;
    for (size_t i = 0; i < text.count; i++) {
        const uint8_t upper = ascii_is_alpha(text.at[i]) ? text.at[i] & (uint8_t)~0x20 : text.at[i];
        const char *digit = upper ? strchr(ID_ALPHABET, upper) : NULL;

        if (!digit || (i == 0 && digit - ID_ALPHABET > 15))
            return false;
        sum = (sum << 5) | (uint64_t)(digit - ID_ALPHABET);
    }
    *id = sum;
    return true;
}

bool percent_decode(struct arena *arena, struct bytes text, struct bytes *plain)
{
    uint8_t *into = arena_take(arena, text.count + 1);
    size_t count = 0;

    if (!into)
        return false;
    for (size_t i = 0; i < text.count; i++) {
        uint8_t byte = text.at[i];

        if (byte == '%') {
            const int high = i + 1 < text.count ? ascii_hex_value(text.at[i + 1]) : -1;
            const int low = i + 2 < text.count ? ascii_hex_value(text.at[i + 2]) : -1;

            if (high < 0 || low < 0)
                return false;
            byte = (uint8_t)(16 * high + low);
            i += 2;
        }
        if (byte == 0)
            return false;
        into[count++] = byte;
    }
    *plain = bytes_of(into, count);
    return true;
}
