// Safetensors files: named tensors after a JSON header (huggingface/safetensors, "Format"). Knows nothing of
// a model.
//
//   8 bytes N (little endian) | N bytes JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...}
//   | data
//
// A file is not trusted: every length, offset, shape and type is checked before anything is read by it.
#ifndef LLMC_CHECKPOINT_SAFETENSORS_H
#define LLMC_CHECKPOINT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SAFETENSORS_MAX_DIMS = 4, SAFETENSORS_MAX_HEADER = 100000000, SAFETENSORS_MAX_FILES = 4096 };

typedef enum { SAFETENSORS_F32, SAFETENSORS_BF16, SAFETENSORS_F16, SAFETENSORS_TYPES } SafetensorsType;

typedef struct {
    const char *name;
    SafetensorsType type;
    int dims;                            // 0 (one element) .. SAFETENSORS_MAX_DIMS
    int64_t shape[SAFETENSORS_MAX_DIMS]; // row-major, shape[dims..] = 1
} SafetensorsTensor;

const char *safetensors_type_name(SafetensorsType type);            // as in the file: "BF16"
size_t safetensors_type_size(SafetensorsType type);                 // bytes of an element
uint64_t safetensors_tensor_bytes(const SafetensorsTensor *tensor); // of a tensor that came from a reader
uint64_t safetensors_elements(const SafetensorsTensor *tensor);     // likewise

// *bytes = the size of any tensor; false where it does not fit into 63 bits (what a file offset holds) or its type is
// none.
bool safetensors_checked_bytes(const SafetensorsTensor *tensor, uint64_t *bytes);

// ---- Reading. A reader presents the tensors of one or several files as one set, sorted by name (bytes).
typedef struct SafetensorsReader SafetensorsReader;

// Opens one file. Errors: 2 (content), 1 (cannot be opened or read).
int safetensors_open(SafetensorsReader **out, const char *path, Error *err);

// Opens a model: a folder with model.safetensors, or else with model.safetensors.index.json and the files it
// names (which must hold exactly the tensors the index says, and lie in the folder itself); or the path of a
// .safetensors file. Pickles (.bin, .pt, .pth) are refused, never read. Errors as above.
int safetensors_open_model(SafetensorsReader **out, const char *path, Error *err);

int safetensors_count(const SafetensorsReader *reader);
const SafetensorsTensor *safetensors_at(const SafetensorsReader *reader, int index); // 0 <= index < count
const SafetensorsTensor *safetensors_find(const SafetensorsReader *reader,
                                          const char *name); // NULL: no such tensor
const char *safetensors_path(const SafetensorsReader *reader,
                             const SafetensorsTensor *tensor); // file it lies in

// The set is without that tensor from now on; tensors after it have other addresses.
void safetensors_drop(SafetensorsReader *reader, int index);

// What the metadata of the (first) file says under that key; NULL: nothing.
const char *safetensors_metadata(const SafetensorsReader *reader, const char *key);

// out = bytes [first, first + count) of a tensor of this reader, as they stand in the file; first + count
// within safetensors_tensor_bytes is the caller's duty. May be called from several threads. Errors: 1.
int safetensors_read(const SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first, size_t count,
                     void *out, Error *err);

// *data = the same bytes without a copy: in the file, which is mapped. They are in memory when it returns (a page that
// cannot be read, or that the file has no more, is an error and not a signal) until they are released. For one
// thread at a time. Errors: 1.
int safetensors_view(SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first, size_t count,
                     const void **data, Error *err);
void safetensors_release(SafetensorsReader *reader, const SafetensorsTensor *tensor, uint64_t first, size_t count);

void safetensors_close(SafetensorsReader *reader); // NULL is allowed

// ---- Writing. All tensors are declared first, then their bytes stream in.
typedef struct SafetensorsWriter SafetensorsWriter;

// Begins path ".tmp" with the header of these tensors, in this order, and metadata {"format": "pt"}. path
// itself is untouched until the finish. Errors: 2 (name twice, bad shape), 1 (I/O).
int safetensors_create(SafetensorsWriter **out, const char *path, const SafetensorsTensor *tensors, int count,
                       Error *err);

// The same, but makes the file under its own name at once, for a folder that is itself temporary. metadata: more of it,
// ended by one without a key; NULL: none.
typedef struct {
    const char *key, *value;
} SafetensorsMetadata;
int safetensors_create_plain(SafetensorsWriter **out, const char *path, const SafetensorsTensor *tensors, int count,
                             const SafetensorsMetadata *metadata, Error *err);
Digest safetensors_digest(const SafetensorsWriter *writer);    // plain only: of what was written so far
uint64_t safetensors_written(const SafetensorsWriter *writer); // bytes, header included

// Appends bytes: the tensors' data in their order, cut into calls anywhere. Errors: 1 (I/O, more bytes than
// declared); after one only safetensors_discard is left.
int safetensors_write(SafetensorsWriter *writer, const void *data, size_t bytes, Error *err);

// Checks that all bytes came, brings them to the disk (fsync) and gives the file its name (rename, fsync of
// the folder). Ends the writer in any case; on failure (1) the temporary file is gone and what was at path
// before is there.
int safetensors_finish(SafetensorsWriter *writer, Error *err);

// Ends the writer and removes the temporary file. NULL is allowed.
void safetensors_discard(SafetensorsWriter *writer);

#ifdef __cplusplus
}
#endif
#endif
