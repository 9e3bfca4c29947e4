#include "checkpoint/writer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct Writer {
    pthread_mutex_t lock; // guards result and has_result
    pthread_t thread;
    bool joinable;   // a thread was started and not joined yet
    bool has_result; // that nobody has asked for yet
    WriterJob job;
    char *lines;               // of a commit
    CheckpointContent content; // its texts and configuration are the writer's own
    LlamaConfig config;
    WriterResult result;
};

int writer_create(Writer **out, Error *err) {
    Writer *writer = calloc(1, sizeof *writer);
    if (!writer) return fail_fault(err, "no memory for the writer of checkpoints");
    pthread_mutex_init(&writer->lock, NULL);
    *out = writer;
    return 0;
}

static void *run(void *argument) {
    Writer *writer = argument;
    WriterResult result = {.step = writer->content.step, .job = writer->job};
    double began = clock_seconds();
    if (writer->job == WRITE_ALL)
        checkpoint_write(&writer->content, &result.bytes, &result.error);
    else if (writer->job == WRITE_PART)
        checkpoint_write_part(&writer->content, &result.lines, &result.bytes, &result.error);
    else
        checkpoint_commit(&writer->content, writer->lines, &result.bytes, &result.error);
    result.seconds = clock_seconds() - began;
    pthread_mutex_lock(&writer->lock);
    writer->result = result;
    writer->has_result = true;
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

static void join(Writer *writer) {
    if (writer->joinable) pthread_join(writer->thread, NULL);
    writer->joinable = false;
}

static void free_texts(Writer *writer) {
    free((void *)writer->content.store);
    free((void *)writer->content.state);
    free((void *)writer->content.tokenizer_folder);
    free((void *)writer->content.base);
    free(writer->lines);
    writer->lines = NULL;
    writer->content = (CheckpointContent){0};
}

static int copy_content(Writer *writer, const CheckpointContent *content, const char *lines, Error *err) {
    free_texts(writer);
    writer->content = *content;
    writer->config = *content->config;
    writer->content.config = &writer->config;
    writer->content.store = strdup(content->store);
    writer->content.state = strdup(content->state);
    writer->content.tokenizer_folder = strdup(content->tokenizer_folder);
    writer->content.base = content->base ? strdup(content->base) : NULL;
    writer->lines = strdup(lines ? lines : "");
    if (writer->content.store && writer->content.state && writer->content.tokenizer_folder && writer->lines &&
        (writer->content.base || !content->base))
        return 0;
    free_texts(writer);
    return fail_fault(err, "%s: no memory to begin a checkpoint", content->store);
}

// Drops a result that was not taken.
static void forget_result(Writer *writer) {
    if (writer->has_result) free(writer->result.lines);
    writer->has_result = false;
}

int writer_begin(Writer *writer, WriterJob job, const CheckpointContent *content, const char *lines, Error *err) {
    join(writer);
    int code = copy_content(writer, content, lines, err);
    if (code) return code;
    forget_result(writer);
    writer->job = job;
    int error = pthread_create(&writer->thread, NULL, run, writer);
    writer->joinable = error == 0;
    return error ? fail_fault(err, "%s: no thread to write a checkpoint: %s", content->store, strerror(error)) : 0;
}

bool writer_finished(Writer *writer, WriterResult *result) {
    pthread_mutex_lock(&writer->lock);
    bool given = writer->has_result;
    if (given) *result = writer->result;
    writer->has_result = false;
    pthread_mutex_unlock(&writer->lock);
    return given;
}

bool writer_wait(Writer *writer, WriterResult *result) {
    join(writer);
    return writer_finished(writer, result);
}

void writer_destroy(Writer *writer) {
    if (!writer) return;
    join(writer);
    forget_result(writer);
    free_texts(writer);
    pthread_mutex_destroy(&writer->lock);
    free(writer);
}
