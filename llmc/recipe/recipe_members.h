// What the files recipe_*.c share: members of JSON objects, messages that name line and path, memory. For them only.
#ifndef LLMC_RECIPE_RECIPE_MEMBERS_H
#define LLMC_RECIPE_RECIPE_MEMBERS_H

#include "recipe/recipe.h"

#define RECIPE_MOST_TOKENS 1e15
#define RECIPE_MOST_STEPS 1e12
#define RECIPE_MOST_ROWS 1048576.0 // rows of a micro-batch, tokens of a row
#define RECIPE_POSITIVE 1e-300     // least real number where zero is not allowed

typedef struct Member Member;

// Sets *to to the value of the object's member. Errors: 2, 1.
typedef int (*TakeMember)(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err);

struct Member {
    const char *name;
    TakeMember take;
    size_t offset;   // in the struct that the object becomes
    double min, max; // of numbers, inclusive
    bool required;
    const char *expected; // of a real number, in the message; NULL: the bounds
};

// MEMBER(struct, field, "name", take, and what else the row has)
#define MEMBER(s, f, n, ...)                                                                                           \
    { .offset = offsetof(s, f), .name = n, .take = __VA_ARGS__ }

// *to = the object's members, in the order of the table `members`, which one without a name ends. What the object does not have
// stays as it is. Errors: 2 (no object, an unknown name, one that stands twice, a required one that is not there), 1.
int recipe_take_object(Recipe *recipe, const Member *members, const cJSON *object, void *to, Error *err);

int recipe_take_text(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err);   // const char *
int recipe_take_count(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err);  // int64_t
int recipe_take_real(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err);   // double
int recipe_take_flag(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err);   // bool
int recipe_take_rate(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err);   // LearningRate
int recipe_take_stages(Recipe *recipe, const Member *member, const cJSON *value, void *to, Error *err); // Recipe.stages

// *list = room for a list's values, zeroed, of `size` bytes each; *count = how many: from 1 to `most`, else an error (2).
int recipe_begin_list(Recipe *recipe, const cJSON *json, int most, size_t size, void *list, int *count, Error *err);

// Set the error "PATH:LINE: path of the value: expected ..., found ..." and return 2.
int recipe_refuse(const Recipe *recipe, const cJSON *value, const char *expected, Error *err);
int recipe_refuse_name(const Recipe *recipe, const cJSON *value, const char *expected, Error *err); // found: its name
int recipe_miss(const Recipe *recipe, const cJSON *object, const char *name, Error *err);           // no such member

// The same for a member of a stage, which it may have taken over from another one.
int recipe_refuse_stage(const Recipe *recipe, int stage, const char *name, int64_t found, const char *expected,
                        Error *err);

// Returns zeroed memory that recipe_close frees; NULL, with the error (1), where there is none.
void *recipe_alloc(Recipe *recipe, size_t bytes, Error *err);

#endif
