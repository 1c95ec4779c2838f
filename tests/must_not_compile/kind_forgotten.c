/* A switch over an enum of ours that leaves a value out. */
#include "verdict/verdict.h"
int digit(enum verdict_kind kind);
int digit(enum verdict_kind kind)
{
    switch (kind) {
    case VERDICT_ACCEPT:
        return 2;
    case VERDICT_REFUSE:
        return 5;
    }
    return 4;
}
