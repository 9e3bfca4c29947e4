// The sizes of attention and the keys that its queries see: what attention, RoPE, the cache and the model all name.
#ifndef LLMC_KERNELS_ATTENTION_SHAPE_H
#define LLMC_KERNELS_ATTENTION_SHAPE_H

// B rows of T tokens. Query head h uses key/value head h / (NH / NKV). A token's heads lie in
// qkv [B, T, (NH + 2 NKV) HD]: query heads, key heads, value heads.
typedef struct {
    int B, T;
    int NH, NKV; // query heads, and key/value heads, of which NH is a multiple
    int HD;      // elements of a head: a multiple of 16, at most 256
} AttentionShape;

// The query at position t of a row sees the key at position j of the row iff
//   doc_start[t] <= j <= t,  and not  excluded[t][0] <= j < excluded[t][1].
// Positions are within the row. Arrays are on the device.
typedef struct {
    // [B*T], where the token's document begins: 0 <= doc_start[t] <= t, non-decreasing within a row
    const int *doc_start;
    // [B*T, 2], 0 <= begin <= end <= t, begin == end for none; NULL: nothing is excluded, which costs no time. It lets
    // several answers share one prompt without seeing each other.
    const int *excluded;
} AttentionMask;

#endif
