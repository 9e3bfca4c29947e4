// Tells ThreadSanitizer how blocks are ordered.
#include "races.h"

#if RACE_BUILD

#include <stdlib.h>

namespace fibers {

enum { RACE_BLOCKS = 8 };

__thread RaceTokens *race_tokens;
__thread bool race_blocks_ordered;
uint64_t race_finished;
static uint64_t launches; // how many have begun; its address orders their blocks after what was before them

void race_start_launch() {
    launches++;
    race_give(&launches);
}

// Nothing may be left by which a block would seem to be ordered after the worker's block before. That takes time: beyond
// the worker's first blocks of a launch only the threads within a block are watched.
void race_start_block(Worker &w) {
    static __thread uint64_t launch;
    static __thread int begun; // blocks of it, by this worker
    if (launch != launches) {
        launch = launches;
        begun = 0;
        race_take(&launches);
    }
    race_blocks_ordered = begun++ >= RACE_BLOCKS;
    if (race_blocks_ordered) return race_take(&race_finished);
    w.outside.race_fiber = __tsan_get_current_fiber();
    drop_stacks(w);
    drop_shared(w);
    free(race_tokens);
    race_tokens = (RaceTokens *)calloc(1, sizeof(RaceTokens));
}

} // namespace fibers

#endif
