#!/usr/bin/env perl
# Writes FOLDER/train_000.bin (llmc/loader/shard.h), tokenizer.json and tokenizer_config.json: tokens that a model learns
# quickly, since each is a fixed function of the one before, but for one in ten, which is random. Needs perl alone, for
# machines without Python.
#
#   dev/synthetic_shards.pl FOLDER [TOKENS [VOCABULARY]]
#
# VOCABULARY (default 258): the ids, of which the last two stand around a document. Beyond the bytes they mean no text.
use strict;
use warnings;

my ($folder, $count, $vocabulary) = @ARGV;
die "usage: synthetic_shards.pl FOLDER [TOKENS [VOCABULARY]]\n" if !defined $folder;
$count = 200_000 if !defined $count;
$vocabulary = 258 if !defined $vocabulary; # the bytes, and the two tokens around a document
my ($bos, $eos) = ($vocabulary - 2, $vocabulary - 1);
my ($bits, $token) = $vocabulary > 65536 ? (32, 'L') : (16, 'S');

sub write_file {
    my ($name, $content) = @_;
    open(my $file, '>:raw', "$folder/$name") or die "$folder/$name: $!\n";
    print $file $content or die "$folder/$name: $!\n";
    close($file) or die "$folder/$name: $!\n";
}

# The character that stands for a byte in byte-level BPE, as JSON.
sub byte_character {
    my ($byte, $hidden) = @_;
    my $shown = ($byte >= 33 && $byte <= 126) || ($byte >= 161 && $byte <= 172) || $byte >= 174;
    return sprintf('"\\u%04x"', $shown ? $byte : 256 + $$hidden++);
}

sub tokenizer {
    my $hidden = 0;
    my $vocab = join(',', map { byte_character($_, \$hidden) . ":$_" } 0 .. 255);
    my $special = join(',', map { sprintf('{"id":%d,"content":"%s","special":true,"single_word":false,"lstrip":false,'
            . '"rstrip":false,"normalized":false}', @$_) } [$bos, '<|begin|>'], [$eos, '<|end|>']);
    return '{"version":"1.0","truncation":null,"padding":null,"added_tokens":[' . $special . '],"normalizer":null,'
        . '"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false},'
        . '"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,'
        . '"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,'
        . '"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{' . $vocab . '},"merges":[]}}';
}

sub tokens {
    my $state = 12345;
    my $random = sub { $state = ($state * 1103515245 + 12345) % 2147483648; return ($state >> 8) % $_[0] };
    my ($last, @ids) = (0);
    while (@ids < $count) {
        push(@ids, $bos);
        for (1 .. 20 + $random->(200)) {
            $last = $random->(10) == 0 ? $random->($bos) : ($last * 37 + 11) % $bos;
            push(@ids, $last);
        }
        push(@ids, $eos);
    }
    return @ids[0 .. $count - 1];
}

-d $folder or mkdir($folder) or die "$folder: $!\n";
write_file('tokenizer.json', tokenizer());
write_file('tokenizer_config.json', '{"tokenizer_class":"PreTrainedTokenizerFast","bos_token":"<|begin|>",'
    . '"eos_token":"<|end|>"}');
my ($digest) = split(' ', `sha256sum '$folder/tokenizer.json'`);
my $header = pack('a8 L<4 Q< L<2 H64 x184', 'L3SHARD', 1, 0x01020304, $bits, $vocabulary, $count, $bos, $eos, $digest);
write_file('train_000.bin', $header . pack("$token<*", tokens()));
